use super::*;

/// Headers were decided on when the request began; everything else can revoke it.
#[test]
fn request_in_flight_keeps_its_headers() {
    let admin = RequestMatch {
        headers: vec![HeaderMatch {
            name: "x-role".parse().unwrap(),
            value: ValueMatch::Exact("admin".to_owned()),
        }],
        ..prefix("/v1")
    };
    let but = AuthorizationRule {
        not_requests: vec![admin.clone()],
        ..AuthorizationRule::default()
    };
    let with = to(std::slice::from_ref(&admin));
    for (policy, target, expected) in [
        (allow(std::slice::from_ref(&with)), "/v1", allowed_by(0)),
        (allow(std::slice::from_ref(&with)), "/v2", NOT_ALLOWED),
        (allow(std::slice::from_ref(&but)), "/v1", allowed_by(0)),
        (deny(std::slice::from_ref(&with)), "/v1", ALLOWED),
        (deny(&[but]), "/v1", ALLOWED),
        (deny(&[to(&[prefix("/v1")])]), "/v1", denied_by(0)),
        (deny(&[to(&[prefix("/v1")])]), "/v2%2f", denied_by(0)),
        (allow(&[to(&[prefix("/v1")])]), "/v1%2f", NOT_ALLOWED),
    ] {
        let connection = connection(std::slice::from_ref(&policy), None);
        let uri = target.parse().unwrap();
        let found = connection.request_in_flight(&http::Method::GET, &uri, &[]);
        assert_eq!(found, expected, "{policy:?} {target}");
    }
}

//! Which requests are allowed: by client, port and request, over every version of HTTP.

use super::*;
use http::{Method, Request};
use weft_ir::{HeaderMatch, Mode, Probe, ProbeRequest, TrustDomain, ValueMatch, Workload};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

#[tokio::test]
async fn client_identity_namespace_and_address_decide() {
    let domain = || TrustDomain::new("cluster.local").unwrap();
    let foreign =
        weft_ir::Identity::new(TrustDomain::new("other.org").unwrap(), "shop", "frontend");
    let namespace = |name: &str| SourceMatch::Namespace(domain(), name.into());
    let cases = [
        (from(&[account("frontend")]), true),
        (from(&[account("other")]), false),
        (from(&[SourceMatch::Identity(foreign.unwrap())]), false),
        (from(&[namespace("shop")]), true),
        (from(&[namespace("other")]), false),
        (from(&[network("127.0.0.0/8")]), true),
        (from(&[network("10.0.0.0/8")]), false),
        (from(&[]), false),
        (AuthorizationRule::default(), true),
    ];
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        assert_eq!(client.get("/").await.status, 200, "without policies");
        for (rule, matches) in &cases {
            enforce(&pair.server, vec![policy("p", Allow, vec![rule.clone()])]);
            let allowed = client.get("/").await;
            enforce(&pair.server, vec![policy("p", Deny, vec![rule.clone()])]);
            let denied = client.get("/").await;
            let codes = if *matches { (200, 403) } else { (403, 200) };
            assert_eq!(
                (allowed.status, denied.status),
                codes,
                "{version:?} {rule:?}"
            );
        }
        // None that does not allow restricts.
        enforce(&pair.server, vec![policy("p", Audit, any())]);
        assert_eq!(client.get("/").await.status, 200);
        enforce(&pair.server, Vec::new());
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn client_in_plain_text_has_no_identity() {
    let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
    let pod = Pod::start(&Pki::new().unwrap(), "reviews", Mode::Permissive);
    let mut client = Client::connect(pod.inbound(app.address()), Version::Http1).await;
    for (source, code) in [
        (account("frontend"), 403),
        (
            SourceMatch::Namespace(TrustDomain::new("cluster.local").unwrap(), "shop".into()),
            403,
        ),
        (network("127.0.0.1/32"), 200),
    ] {
        enforce(
            &pod,
            vec![policy(
                "p",
                Allow,
                vec![from(std::slice::from_ref(&source))],
            )],
        );
        assert_eq!(client.get("/").await.status, code, "{source:?}");
    }
    for (default, code) in [
        (DefaultAuthorization::Allow, 200),
        (DefaultAuthorization::Mesh, 403),
        (DefaultAuthorization::Deny, 403),
    ] {
        let workload = Authorization {
            policies: Vec::new(),
            default,
        };
        pod.tell(vec![encode::authorizations(&Authorizations {
            workload,
            ..Authorizations::default()
        })]);
        assert_eq!(client.get("/").await.status, code, "{default:?}");
    }
}

#[tokio::test]
async fn policy_and_rule_apply_to_their_ports() {
    let (pair, mut client) = Pair::for_version(Version::Http1).await;
    let own = pair.app.address().port();
    for (port, applies) in [(own, true), (own ^ 1, false)] {
        let at_port = AuthorizationPolicy {
            ports: vec![port],
            ..policy("p", Deny, any())
        };
        enforce(&pair.server, vec![at_port]);
        let code = if applies { 403 } else { 200 };
        assert_eq!(client.get("/").await.status, code, "policy of {port}");
        let rule = AuthorizationRule {
            ports: vec![port],
            ..AuthorizationRule::default()
        };
        enforce(&pair.server, vec![policy("p", Deny, vec![rule])]);
        assert_eq!(client.get("/").await.status, code, "rule of {port}");
    }
}

#[tokio::test]
async fn method_path_and_header_decide() {
    let header = HeaderMatch {
        name: "x-role".parse().unwrap(),
        value: ValueMatch::Exact("admin".to_owned()),
    };
    let request = RequestMatch {
        method: Some(Method::POST),
        headers: vec![header],
        ..prefix("/v1")
    };
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        let rule = to_requests(std::slice::from_ref(&request));
        enforce(&pair.server, vec![policy("p", Deny, vec![rule])]);
        for (method, path, role, code) in [
            ("POST", "/v1/items", "admin", 403),
            ("POST", "/v1/items", "user", 200),
            ("POST", "/v2", "admin", 200),
            ("GET", "/v1", "admin", 200),
        ] {
            let ask = Request::builder().method(method).uri(path);
            let seen = client.send(ask.header("x-role", role), "").await;
            assert_eq!(seen.status, code, "{version:?} {method} {path} {role}");
        }
    }
}

#[tokio::test]
async fn grpc_method_decides() {
    let (pair, mut client) = Pair::for_version(Version::Http2).await;
    let rule = to_requests(&[RequestMatch {
        path: Some(PathMatch::Exact("/shop.Orders/List".to_owned())),
        method: Some(Method::POST),
        ..RequestMatch::default()
    }]);
    enforce(&pair.server, vec![policy("list", Allow, vec![rule])]);
    let call = |path| Request::post(path).header("content-type", "application/grpc");
    let seen = client.send(call("/shop.Orders/List"), "").await;
    assert_eq!((seen.status, seen.header("x-upstream")), (200, "v1"));
    let seen = client.send(call("/shop.Orders/Delete"), "").await;
    let told = (seen.header("grpc-status"), seen.header("grpc-message"));
    assert_eq!(told, ("7", "denied: no policy allows it"));
    assert_eq!((seen.status, pair.app.requests()), (200, 1));
}

/// In this form the application gets it, too.
#[tokio::test]
async fn path_is_normalized_where_policies_read_it() {
    let (pair, mut client) = Pair::for_version(Version::Http1).await;
    assert_eq!(client.get("/a//b/%61").await.header("x-path"), "/a//b/%61");
    enforce(
        &pair.server,
        vec![policy("p", Deny, vec![to_requests(&[prefix("/admin")])])],
    );
    for path in [
        "//admin",
        "/./admin",
        "/a/../admin",
        "/%61dmin",
        "/a/%2e%2e/admin/x",
    ] {
        assert_eq!(client.get(path).await.status, 403, "{path}");
    }
    // What applications read differently from each other.
    for path in ["/x%2f..%2fadmin", "/admin;a=b", "/x/..%5cadmin"] {
        assert_eq!(client.get(path).await.status, 403, "{path}");
    }
    let seen = client.get("/a//b/%61?x=//").await;
    assert_eq!((seen.status, seen.header("x-path")), (200, "/a/b/a?x=//"));
    enforce(&pair.server, vec![policy("p", Deny, vec![from(&[])])]);
    assert_eq!(client.get("/a//b").await.header("x-path"), "/a//b");
}

#[tokio::test]
async fn probes_pass_whatever_policies_say() {
    for mode in [Mode::Strict, Mode::Permissive] {
        let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
        let pod = Pod::start(&Pki::new().unwrap(), "reviews", mode);
        let probe = |port, path: &str| Probe {
            port,
            asks: ProbeRequest::Get(path.to_owned()),
        };
        let port = app.address().port();
        let workload = Workload {
            probes: vec![probe(port, "/ready"), probe(port ^ 1, "/other")],
            ..Workload::new(pod.identity.clone(), mode)
        };
        pod.tell(vec![encode::workload(&workload)]);
        enforce(&pod, deny_all());
        let mut kubelet = Client::connect(pod.inbound(app.address()), Version::Http1).await;
        for (path, code) in [
            ("/ready", 200),
            ("/other", 403),
            ("//ready", 403),
            ("/", 403),
        ] {
            assert_eq!(kubelet.get(path).await.status, code, "{mode:?} {path}");
        }
        let upgrade = Request::get("/ready")
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        assert_eq!(kubelet.send(upgrade, "").await.status, 403, "{mode:?}");
        assert_eq!(app.requests(), 1);
    }
}

#[tokio::test]
async fn client_of_the_mesh_is_no_probe() {
    let (pair, mut client) = Pair::for_version(Version::Http1).await;
    let probe = Probe {
        port: pair.app.address().port(),
        asks: ProbeRequest::Get("/ready".to_owned()),
    };
    let workload = Workload {
        probes: vec![probe],
        ..Workload::new(pair.server.identity.clone(), Mode::Strict)
    };
    pair.server.tell(vec![encode::workload(&workload)]);
    enforce(&pair.server, deny_all());
    assert_eq!(client.get("/ready").await.status, 403);
}

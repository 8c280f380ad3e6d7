//! What responses, the access log and metrics say of decisions.

use super::*;
use crate::access_log::Lines;
use http::Request;
use weft_ir::Mode;
use weft_proxy::options::AccessLogLevel;
use weft_proxy::telemetry::access::AccessLog;
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

#[tokio::test]
async fn denied_client_is_told_the_policy() {
    let invalid = AuthorizationPolicy {
        effect: PolicyEffect::Invalid,
        ..policy("broken", Allow, any())
    };
    let of_cluster = AuthorizationPolicy {
        id: PolicyId {
            namespace: None,
            name: "platform".into(),
            kind: weft_ir::PolicyKind::Authorization,
        },
        ..policy("", Deny, any())
    };
    for version in BOTH {
        let (pair, mut client) = Pair::for_version(version).await;
        for (policy, told) in [
            (
                policy("p", Deny, any()),
                "denied by AuthorizationPolicy shop/p",
            ),
            (
                policy("p", Allow, Vec::new()),
                "denied: no policy allows it",
            ),
            (
                invalid.clone(),
                "denied by AuthorizationPolicy shop/broken, which is invalid",
            ),
            (
                of_cluster.clone(),
                "denied by ClusterAuthorizationPolicy platform",
            ),
        ] {
            enforce(&pair.server, vec![policy]);
            let seen = client.get("/").await;
            assert_eq!((seen.status, seen.header("weft-error")), (403, told));
            assert_eq!(seen.header("weft-error-type"), "authorization_denied");
            assert_eq!(seen.header("content-type"), "text/plain; charset=utf-8");
            assert_eq!(seen.body, format!("{told}\n"), "{version:?}");
            let head = client.send(Request::head("/"), "").await;
            assert_eq!((head.status, head.body.len()), (403, 0), "{version:?}");
        }
        assert_eq!(pair.app.requests(), 0);
    }
}

#[tokio::test]
async fn denied_grpc_call_ends_with_permission_denied() {
    let (pair, mut client) = Pair::for_version(Version::Http2).await;
    enforce(&pair.server, deny_all());
    let call = Request::post("/shop.Orders/List").header("content-type", "application/grpc");
    let seen = client.send(call, "").await;
    assert_eq!((seen.status, seen.header("grpc-status")), (200, "7"));
    let told = "denied by AuthorizationPolicy shop/nobody";
    assert_eq!(seen.header("grpc-message"), told);
    assert!(seen.body.is_empty());
}

#[tokio::test]
async fn access_log_and_metrics_name_the_policy() {
    let lines = Lines::default();
    let counter = weft_proxy::telemetry::metrics::Metrics::new();
    let (access, _writer) = AccessLog::start(
        AccessLogLevel::All,
        lines.clone(),
        counter.access_log_dropped.clone(),
    )
    .unwrap();
    let pki = Pki::new().unwrap();
    let pod = Pod::start_logged(&pki, "reviews", Mode::Permissive, access);
    let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
    let mut client = Client::connect(pod.inbound(app.address()), Version::Http1).await;
    let local = || vec![from(&[network("127.0.0.0/8")])];
    client.get("/").await;
    assert!(lines.line(0).await.get("authorization").is_none());
    for (number, (policies, decision, name)) in [
        (vec![policy("allow", Allow, local())], "allowed", "allow"),
        (
            vec![
                policy("allow", Allow, local()),
                policy("audit", Audit, any()),
            ],
            "audited",
            "audit",
        ),
        (
            vec![policy("audit", Audit, any()), policy("deny", Deny, any())],
            "denied",
            "deny",
        ),
        (vec![policy("allow", Allow, Vec::new())], "denied", ""),
        (vec![policy("other", Deny, vec![from(&[])])], "allowed", ""),
    ]
    .into_iter()
    .enumerate()
    {
        enforce(&pod, policies);
        let before = count(&pod.metrics(), &series("inbound", decision, name));
        client.get("/").await;
        let line = lines.line(number + 1).await;
        assert_eq!(line["authorization"], decision, "{line}");
        let named = match name {
            "" => serde_json::Value::Null,
            name => format!("AuthorizationPolicy shop/{name}").into(),
        };
        assert_eq!(line["authorization_policy"], named, "{line}");
        let after = count(&pod.metrics(), &series("inbound", decision, name));
        assert_eq!(after, before + 1, "{decision} {name}");
    }
    // Series go with their policies, and the rest stays.
    enforce(&pod, Vec::new());
    let metrics = pod.metrics();
    assert!(!metrics.contains("policy_name"), "{metrics}");
    assert_eq!(count(&metrics, &series("inbound", "denied", "")), 1);
}

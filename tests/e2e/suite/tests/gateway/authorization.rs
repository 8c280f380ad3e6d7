//! AuthorizationPolicies at Gateways and their routes.

cluster_tests! {
    run Unmeshed gateway_policy_decides_by_client_address;
    run Unmeshed route_policy_decides_by_request;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::gateways::{gateway, listener, parameters, with_parameters};
    use weft_e2e::host::{curl, in_url};
    use weft_e2e::policies::authorization_policy;
    use weft_e2e::{TestNamespace, eventually};

    fn gateway_target() -> Value {
        json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}])
    }

    /// Waits until a request gets this status.
    async fn gets(url: &str, arguments: &[&str], status: u16) -> anyhow::Result<()> {
        eventually(&format!("{status} from {url} {arguments:?}"), async || {
            let reply = curl(&[arguments, &[url]].concat()).await?;
            reply.is(status).map(drop)
        })
        .await
    }

    pub(super) async fn gateway_policy_decides_by_client_address(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.apply(parameters("edge", json!({"trustedHops": "1"})))
            .await?;
        let edge = gateway("edge", json!([listener("http", "HTTP", 80)]));
        let address = ns.deploy_gateway(with_parameters(edge, "edge")).await?;
        let url = format!("http://{}/reviews/1", in_url(&address));
        let rules = json!([{"sources": [{"type": "CIDR", "cidr": "203.0.113.0/24"}]}]);
        ns.policy(authorization_policy(
            "office",
            "ALLOW",
            gateway_target(),
            rules,
        ))
        .await?;
        gets(&url, &["-H", "x-forwarded-for: 203.0.113.7"], 200).await?;
        gets(&url, &["-H", "x-forwarded-for: 198.51.100.7"], 403).await?;
        // What stands before the trusted hop's entry is the client's own word.
        gets(
            &url,
            &["-H", "x-forwarded-for: 203.0.113.7, 198.51.100.7"],
            403,
        )
        .await?;
        let reply = curl(&["-H", "x-forwarded-for: 198.51.100.7", &url]).await?;
        anyhow::ensure!(
            !format!("{reply:?}").contains("office"),
            "the policy is named: {reply:?}"
        );
        ns.remove_policy("AuthorizationPolicy", "office").await?;
        gets(&url, &["-H", "x-forwarded-for: 198.51.100.7"], 200).await
    }

    pub(super) async fn route_policy_decides_by_request(ns: &TestNamespace) -> anyhow::Result<()> {
        let edge = gateway("edge", json!([listener("http", "HTTP", 80)]));
        let address = ns.deploy_gateway(edge).await?;
        let base = format!("http://{}", in_url(&address));
        let target =
            json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "reviews"}]);
        let requests = json!([{"path": {"value": "/reviews/2"}}]);
        let rules = json!([{"applicationAttributes": {"requests": requests}}]);
        ns.policy(authorization_policy("not-two", "DENY", target, rules))
            .await?;
        gets(&format!("{base}/reviews/1"), &[], 200).await?;
        for path in [
            "reviews/2",
            "reviews//2",
            "reviews/./2",
            "reviews/%32",
            "reviews/2/",
            "reviews%2f2",
        ] {
            gets(&format!("{base}/{path}"), &["--path-as-is"], 403).await?;
        }
        Ok(())
    }
}

//! AuthenticationPolicies at Gateways and their routes, with tokens of the cluster's own issuer.

cluster_tests! {
    run Unmeshed gateway_requires_tokens_of_its_issuer;
    run Unmeshed route_requires_a_token_beside_open_ones;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::gateways::{gateway, listener};
    use weft_e2e::host::{curl, in_url};
    use weft_e2e::tokens::{self, provider};
    use weft_e2e::{TestNamespace, eventually};

    fn target(kind: &str, name: &str) -> Value {
        json!([{"group": "gateway.networking.k8s.io", "kind": kind, "name": name}])
    }

    /// Waits until a request gets this status.
    async fn gets(url: &str, token: Option<&str>, status: u16) -> anyhow::Result<()> {
        let header = token.map(|token| format!("authorization: Bearer {token}"));
        let mut arguments = Vec::new();
        if let Some(header) = &header {
            arguments.extend(["-H", header]);
        }
        arguments.push(url);
        eventually(&format!("{status} from {url}"), async || {
            curl(&arguments).await?.is(status).map(drop)
        })
        .await
    }

    /// Deploys a Gateway, and returns the URL of the Service behind it.
    async fn deploy(ns: &TestNamespace) -> anyhow::Result<String> {
        tokens::permit_reading_keys(ns).await?;
        let edge = gateway("edge", json!([listener("http", "HTTP", 80)]));
        let address = ns.deploy_gateway(edge).await?;
        Ok(format!("http://{}/reviews/1", in_url(&address)))
    }

    pub(super) async fn gateway_requires_tokens_of_its_issuer(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let url = deploy(ns).await?;
        let providers = json!([provider(ns, "edge").await?]);
        let policy = tokens::policy("tokens", target("Gateway", "edge"), providers);
        ns.policy(policy).await?;
        let token = tokens::of_account(ns, "default", "edge").await?;
        let other = tokens::of_account(ns, "default", "other").await?;
        gets(&url, None, 401).await?;
        gets(&url, Some(&other), 401).await?;
        gets(&url, Some("a.b.c"), 401).await?;
        gets(&url, Some(&token), 200).await?;
        // What the policy is called is for nobody outside.
        let reply = format!("{:?}", curl(&[&url]).await?);
        anyhow::ensure!(
            !reply.contains("AuthenticationPolicy"),
            "the policy is named: {reply}"
        );
        ns.remove_policy("AuthenticationPolicy", "tokens").await?;
        gets(&url, None, 200).await
    }

    pub(super) async fn route_requires_a_token_beside_open_ones(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let url = deploy(ns).await?;
        let providers = json!([provider(ns, "edge").await?]);
        let mut policy = tokens::policy("tokens", target("HTTPRoute", "reviews"), providers);
        ns.policy(policy.clone()).await?;
        let token = tokens::of_account(ns, "default", "edge").await?;
        gets(&url, None, 401).await?;
        gets(&url, Some(&token), 200).await?;
        // Without a token it passes, with a bad one never.
        policy["spec"]["mode"] = "Optional".into();
        ns.policy(policy).await?;
        gets(&url, None, 200).await?;
        gets(&url, Some("a.b.c"), 401).await
    }
}

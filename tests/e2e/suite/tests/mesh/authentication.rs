//! AuthenticationPolicies in the mesh: tokens of the cluster's own issuer, whose keys the
//! controller fetches, and claims as sources of AuthorizationPolicies.

cluster_tests! {
    run Meshed tokens_of_the_cluster_are_verified;
    run Meshed policy_without_keys_refuses_tokens_and_says_so;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::policies::authorization_policy;
    use weft_e2e::tokens::{self, provider};
    use weft_e2e::{TestNamespace, eventually};

    const URL: &str = "http://reviews/reviews/1";
    const AUDIENCE: &str = "reviews";

    fn service() -> Value {
        json!([{"kind": "Service", "name": "reviews", "sectionName": "http"}])
    }

    /// Fails unless every response has this code.
    async fn gets(ns: &TestNamespace, code: &str, token: Option<&str>) -> anyhow::Result<()> {
        let header = token.map(|token| format!("authorization: Bearer {token}"));
        let mut arguments = vec!["-n", "20"];
        if let Some(header) = &header {
            arguments.extend(["-H", header]);
        }
        ns.load("client", URL, &arguments)
            .await?
            .all(code)
            .map(drop)
    }

    pub(super) async fn tokens_of_the_cluster_are_verified(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        tokens::permit_reading_keys(ns).await?;
        ns.deploy_shop(&["v1"]).await?;
        ns.reachable("client", URL, &[]).await?;
        let provider = provider(ns, AUDIENCE).await?;
        let issuer = provider["issuer"].clone();
        ns.policy(tokens::policy("tokens", service(), json!([provider])))
            .await?;
        let good = tokens::of_account(ns, "client", AUDIENCE).await?;
        let other = tokens::of_account(ns, "client", "other").await?;
        gets(ns, "200", Some(&good)).await?;
        gets(ns, "401", Some(&other)).await?;
        gets(ns, "401", Some("a.b.c")).await?;
        gets(ns, "401", None).await?;
        let refused = ["decision=\"denied\"", "policy_name=\"tokens\""];
        let refused = ns
            .metric("reviews-v1", "weft_authorization_decisions_total", &refused)
            .await?;
        anyhow::ensure!(refused >= 60.0, "{refused} refused requests were counted");
        // Claims of the token.
        let account = |name: &str| format!("system:serviceaccount:{}:{name}", ns.namespace);
        for (name, code) in [("client", "200"), ("other", "403")] {
            let source = json!({"type": "JWT", "jwt": {
                "issuer": issuer, "subject": account(name),
                "claims": [{"name": "kubernetes.io.namespace", "values": [ns.namespace]}],
            }});
            let rules = json!([{"sources": [source]}]);
            ns.policy(authorization_policy("accounts", "ALLOW", service(), rules))
                .await?;
            gets(ns, code, Some(&good)).await?;
        }
        ns.remove_policy("AuthorizationPolicy", "accounts").await?;
        ns.remove_policy("AuthenticationPolicy", "tokens").await?;
        eventually("the policies to be gone", async || {
            gets(ns, "200", None).await
        })
        .await
    }

    pub(super) async fn policy_without_keys_refuses_tokens_and_says_so(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        ns.reachable("client", URL, &[]).await?;
        let provider = json!({
            "name": "down", "issuer": "https://down.example", "audiences": [AUDIENCE],
            "jwks": {"uri": "https://127.0.0.1/keys"},
        });
        ns.apply(tokens::policy("down", service(), json!([provider])))
            .await?;
        eventually("the policy to lack keys", async || {
            let conditions = ns.policy_conditions("AuthenticationPolicy", "down").await?;
            anyhow::ensure!(conditions.of("Accepted")?.0 == "True", "{conditions}");
            let (status, reason, message) = conditions.of("weft.dev/Programmed")?;
            let says = message.contains("no address that keys may be fetched from");
            anyhow::ensure!(
                status == "False" && reason == "KeysMissing" && says,
                "{conditions}"
            );
            Ok(())
        })
        .await?;
        eventually("requests to be refused", async || {
            gets(ns, "401", None).await
        })
        .await?;
        let token = tokens::of_account(ns, "client", AUDIENCE).await?;
        gets(ns, "401", Some(&token)).await
    }
}

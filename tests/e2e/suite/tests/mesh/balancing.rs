//! Load balancing by TrafficPolicies in the mesh.

cluster_tests! {
    run Meshed header_leads_to_one_pod_from_two_client_pods;
    run_busy Meshed load_balancing_changes_fail_no_request;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::policies::traffic_policy;
    use weft_e2e::{TestNamespace, objects};

    const URL: &str = "http://reviews/reviews/1";
    const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];

    fn policy(section: Value) -> Value {
        let service = json!([{"group": "", "kind": "Service", "name": "reviews"}]);
        traffic_policy("reviews", service, json!({"loadBalancing": section}))
    }

    fn by_user() -> Value {
        let hash = json!({"type": "Header", "header": {"name": "x-user"}});
        json!({"algorithm": "ConsistentHash", "consistentHash": hash})
    }

    pub(super) async fn header_leads_to_one_pod_from_two_client_pods(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&VERSIONS).await?;
        ns.apply(objects::client("other")).await?;
        ns.wait_until_ready("other").await?;
        ns.reachable("other", URL, &[]).await?;
        ns.policy(policy(by_user())).await?;
        let mut used = std::collections::BTreeSet::new();
        for user in 0..12 {
            let header = format!("x-user: user-{user}");
            let arguments = ["-n", "10", "-H", &header];
            let first = ns.load("client", URL, &arguments).await?;
            let mut versions = VERSIONS.into_iter();
            let version = versions.find(|version| first.version(version) == first.sent());
            let version = version.ok_or_else(|| anyhow::anyhow!("several pods: {first}"))?;
            let second = ns.load("other", URL, &arguments).await?;
            second.all_from(version)?;
            used.insert(version);
        }
        anyhow::ensure!(used.len() > 1, "all users have the same pod: {used:?}");
        Ok(())
    }

    pub(super) async fn load_balancing_changes_fail_no_request(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let source = json!({"type": "SourceAddress", "loadFactorPercent": 125});
        let changes = async {
            for section in [
                by_user(),
                json!({"algorithm": "RoundRobin", "slowStart": {"window": "10s"}}),
                json!({"algorithm": "ConsistentHash", "consistentHash": source}),
                json!({"algorithm": "LeastRequest"}),
                json!({"algorithm": "Random"}),
            ] {
                ns.policy(policy(section)).await?;
            }
            ns.remove_policy("TrafficPolicy", "reviews").await
        };
        let ((), traffic) = ns.under_traffic("client", "reviews", changes).await?;
        traffic.as_expected()
    }
}

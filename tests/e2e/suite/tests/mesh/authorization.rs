//! AuthorizationPolicies in the mesh: who may call, what a denied client gets, and how soon a
//! change is in force.

cluster_tests! {
    run Meshed allow_policy_admits_only_named_accounts;
    run Meshed request_conditions_decide_by_method_and_path;
    run Meshed default_of_the_namespace_admits_the_mesh_only;
    run Meshed invalid_policy_denies_what_it_targets;
    run Meshed cluster_policy_cannot_be_undone_in_a_namespace;
    run_busy Meshed denied_client_is_refused_within_a_second;
    run_busy Meshed policy_changes_fail_no_permitted_request;
}

mod cases {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde_json::{Value, json};
    use weft_e2e::policies::{self, account, authorization_policy};
    use weft_e2e::{TestNamespace, eventually, objects};

    const URL: &str = "http://reviews/reviews/1";

    /// Deploys the shop with two clients: `client`, and `other` under the account `other`.
    async fn deploy(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.apply(objects::account("other")).await?;
        ns.apply(objects::pod(
            "other",
            "other",
            json!({"app": "other"}),
            &["idle"],
        ))
        .await?;
        ns.deploy_shop(&["v1"]).await?;
        ns.wait_until_ready("other").await?;
        ns.reachable("other", URL, &[]).await
    }

    /// The pods of the Service `reviews`.
    fn pods() -> Value {
        json!([{"kind": "Pod", "selector": {"matchLabels": {"app": "reviews"}}}])
    }

    /// Fails unless every response to the pod has this code.
    async fn gets(ns: &TestNamespace, pod: &str, code: &str, more: &[&str]) -> anyhow::Result<()> {
        let arguments = [&["-n", "20"], more].concat();
        ns.load(pod, URL, &arguments).await?.all(code).map(drop)
    }

    /// Sends bytes to the echo port, and returns what comes back.
    async fn echo(ns: &TestNamespace, pod: &str) -> String {
        let command = [
            "weft-shop",
            "talk",
            "--connect",
            "reviews:7000",
            "--send-hex",
            "6162",
        ];
        ns.exec(pod, "shop", &command).await.unwrap_or_default()
    }

    pub(super) async fn allow_policy_admits_only_named_accounts(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy(ns).await?;
        let rules = json!([{"sources": [account("client")]}]);
        ns.policy(authorization_policy("clients", "ALLOW", pods(), rules))
            .await?;
        gets(ns, "client", "200", &[]).await?;
        gets(ns, "other", "403", &[]).await?;
        gets(ns, "other", "403", &["--http2"]).await?;
        let grpc = "http://reviews:9000";
        let asked = ns
            .load("client", grpc, &["-n", "5", "--grpc", "get"])
            .await?;
        asked.all("OK")?;
        let asked = ns
            .load("other", grpc, &["-n", "5", "--grpc", "get"])
            .await?;
        asked.all("PermissionDenied")?;
        // A connection whose bytes are not read.
        anyhow::ensure!(
            echo(ns, "client").await == "ab",
            "the client's connection is closed"
        );
        anyhow::ensure!(
            echo(ns, "other").await.is_empty(),
            "a denied client is served"
        );
        let denied = ["decision=\"denied\""];
        let name = "weft_authorization_decisions_total";
        let denied = ns.metric("reviews-v1", name, &denied).await?;
        anyhow::ensure!(denied >= 40.0, "{denied} denied requests were counted");
        let allowed = ["decision=\"allowed\"", "policy_name=\"clients\""];
        let allowed = ns.metric("reviews-v1", name, &allowed).await?;
        anyhow::ensure!(allowed >= 20.0, "{allowed} allowed requests were counted");
        // The kubelet goes on probing.
        ns.wait_until_ready("reviews-v1").await?;
        let restarts = ns.restarts("reviews-v1").await?;
        anyhow::ensure!(restarts == 0, "the pod was restarted");
        ns.remove_policy("AuthorizationPolicy", "clients").await?;
        eventually("the policy to be gone", async || {
            gets(ns, "other", "200", &[]).await
        })
        .await
    }

    pub(super) async fn request_conditions_decide_by_method_and_path(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy(ns).await?;
        let service = json!([{"kind": "Service", "name": "reviews", "sectionName": "http"}]);
        let requests = json!([{"method": "GET", "path": {"value": "/reviews"}}]);
        let rules = json!([{"applicationAttributes": {"requests": requests}}]);
        ns.policy(authorization_policy("reads", "ALLOW", service, rules))
            .await?;
        gets(ns, "client", "200", &[]).await?;
        gets(ns, "client", "403", &["--method", "POST"]).await?;
        for path in [
            "healthz",
            "reviews/../healthz",
            "%72eviews/..%2fhealthz",
            "reviews%2f1",
        ] {
            let asked = ns
                .load("client", &format!("http://reviews/{path}"), &["-n", "3"])
                .await?;
            asked.all("403")?;
        }
        // Other ports of the Service are not concerned.
        anyhow::ensure!(echo(ns, "client").await == "ab", "another port is closed");
        Ok(())
    }

    pub(super) async fn default_of_the_namespace_admits_the_mesh_only(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy(ns).await?;
        let mut pod = objects::client("plain");
        pod["metadata"]["labels"]["weft.dev/inject"] = "disabled".into();
        ns.apply(pod).await?;
        ns.wait_until_ready("plain").await?;
        gets(ns, "plain", "200", &[]).await?;
        policies::set_default(ns, "mesh".into()).await?;
        eventually("plain text to be denied", async || {
            gets(ns, "plain", "403", &[]).await
        })
        .await?;
        gets(ns, "client", "200", &[]).await?;
        ns.wait_until_ready("reviews-v1").await?;
        policies::set_default(ns, "deny".into()).await?;
        eventually("everything to be denied", async || {
            gets(ns, "client", "403", &[]).await
        })
        .await?;
        let rules = json!([{"sources": [account("client")]}]);
        ns.policy(authorization_policy("clients", "ALLOW", pods(), rules))
            .await?;
        gets(ns, "client", "200", &[]).await?;
        gets(ns, "other", "403", &[]).await?;
        policies::set_default(ns, Value::Null).await
    }

    pub(super) async fn invalid_policy_denies_what_it_targets(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy(ns).await?;
        let source = json!({"type": "CIDR", "cidr": "10.0.0.0/33"});
        let rules = json!([{"sources": [source]}]);
        ns.apply(authorization_policy("typing-error", "ALLOW", pods(), rules))
            .await?;
        let reported = ns
            .policy_conditions("AuthorizationPolicy", "typing-error")
            .await?;
        reported.is_false("Accepted", "Invalid", &["10.0.0.0/33"])?;
        eventually("the pods to be closed", async || {
            gets(ns, "client", "403", &[]).await
        })
        .await?;
        let answer = ns.load("client", URL, &[]).await?.first_response();
        let words = answer.error().unwrap_or_default().to_owned();
        anyhow::ensure!(
            words.contains("typing-error"),
            "the policy is not named: {words:?}"
        );
        ns.remove_policy("AuthorizationPolicy", "typing-error")
            .await?;
        eventually("the pods to be open", async || {
            gets(ns, "client", "200", &[]).await
        })
        .await
    }

    pub(super) async fn cluster_policy_cannot_be_undone_in_a_namespace(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy(ns).await?;
        let rules = json!([{}]);
        ns.policy(authorization_policy("everybody", "ALLOW", pods(), rules))
            .await?;
        gets(ns, "other", "200", &[]).await?;
        let labels = json!({"kubernetes.io/metadata.name": ns.namespace});
        let targets = json!([{"kind": "Pod", "namespaceSelector": {"matchLabels": labels}}]);
        let mut source = account("other");
        source["serviceAccount"]["namespace"] = ns.namespace.clone().into();
        let name = ns.namespace.clone();
        let policy = json!({
            "apiVersion": policies::VERSION, "kind": "ClusterAuthorizationPolicy",
            "metadata": {"name": name},
            "spec": {"targets": targets, "action": "DENY", "rules": [{"sources": [source]}]},
        });
        let outcome = async {
            ns.policy(policy).await?;
            gets(ns, "other", "403", &[]).await?;
            gets(ns, "client", "200", &[]).await
        };
        let outcome = outcome.await;
        let removed = ns.remove_policy("ClusterAuthorizationPolicy", &name).await;
        outcome.and(removed)
    }

    fn millis() -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_millis() as u64)
    }

    /// Connections that are open already are concerned too.
    pub(super) async fn denied_client_is_refused_within_a_second(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy(ns).await?;
        let rules = json!([{"sources": [account("other")]}]);
        let policy = authorization_policy("not-other", "DENY", pods(), rules);
        let change = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let begun = millis();
            ns.apply(policy).await?;
            anyhow::Ok(begun)
        };
        let arguments = ["-n", "500", "--rate", "100", "-c", "8", "--keep", "0"];
        let load = ns.load("other", URL, &arguments);
        let (summary, begun) = tokio::try_join!(load, change)?;
        let first = summary.problems().map(|problem| problem.at()).min();
        let late = first.is_none_or(|first| first > begun + 1000);
        anyhow::ensure!(
            !late,
            "denied after {:?} ms: {summary}",
            first.map(|at| at - begun)
        );
        // All after that are denied: 5 s of requests, of which at most 2 s came before.
        let denied = summary.code("403");
        anyhow::ensure!(
            denied >= 280 && denied == summary.failed(),
            "{denied} denied: {summary}"
        );
        Ok(())
    }

    pub(super) async fn policy_changes_fail_no_permitted_request(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy(ns).await?;
        let apply = async |round: u32| {
            let mut sources = vec![account("client")];
            sources.extend((0..round % 3).map(|number| account(&format!("other-{number}"))));
            let rules = json!([{"sources": sources}]);
            ns.policy(authorization_policy("clients", "ALLOW", pods(), rules))
                .await
        };
        let changes = async {
            for round in 0..6 {
                apply(round).await?;
            }
            ns.remove_policy("AuthorizationPolicy", "clients").await?;
            apply(0).await
        };
        let ((), traffic) = ns.under_traffic("client", "reviews", changes).await?;
        traffic.as_expected()
    }
}

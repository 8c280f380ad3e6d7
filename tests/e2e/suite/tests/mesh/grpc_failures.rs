//! Responses that a proxy generates for gRPC clients: always a gRPC status with the cause as its
//! message, never a plain HTTP error.

cluster_tests! {
    run Meshed routing_failures_are_grpc_statuses_with_a_cause;
    run Meshed timeouts_and_rejections_are_grpc_statuses;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::host::in_url;
    use weft_e2e::objects;
    use weft_e2e::{TestNamespace, eventually};

    const URL: &str = "http://reviews:9000";

    /// Waits until the call ends with this code and a message that contains these words.
    async fn check_failure(
        ns: &TestNamespace,
        (pod, url): (&str, &str),
        arguments: &[&str],
        code: &str,
        words: &str,
    ) -> anyhow::Result<()> {
        let arguments = [&["--grpc", "get"], arguments].concat();
        let what = format!("{url} {arguments:?} to fail with {code}: {words}");
        eventually(&what, async || {
            let summary = ns.load(pod, url, &arguments).await?;
            let answer = summary.all(code)?.first_response();
            let error = answer.error().unwrap_or_default();
            anyhow::ensure!(error.contains(words), "{error}");
            Ok(())
        })
        .await
    }

    /// Returns a Service whose gRPC port leads to this port of the selected pods.
    fn service(name: &str, labels: Value, port: u16) -> Value {
        let mut service = objects::service(name, labels);
        service["spec"]["ports"] = json!([{"name": "grpc", "port": 9000, "targetPort": port}]);
        service
    }

    /// Applies a pod without a proxy.
    async fn apply_without_proxy(ns: &TestNamespace, mut pod: Value) -> anyhow::Result<()> {
        pod["metadata"]["labels"]["weft.dev/inject"] = "disabled".into();
        ns.apply(pod).await.map(drop)
    }

    /// Returns the rule with a match on the header `x-case`.
    fn rule_for_case(name: &str, mut rule: Value) -> Value {
        rule["matches"] = json!([{"headers": [{"name": "x-case", "value": name}]}]);
        rule
    }

    fn backend(name: &str) -> Value {
        json!({"backendRefs": [{"name": name, "port": 9000}]})
    }

    fn rules() -> Value {
        let mut weightless = backend("reviews-v1");
        weightless["backendRefs"][0]["weight"] = 0.into();
        let mut extended = backend("reviews-v1");
        let extension = json!({"group": "example.org", "kind": "Wizard", "name": "merlin"});
        extended["filters"] = json!([{"type": "ExtensionRef", "extensionRef": extension}]);
        let mut broken = backend("reviews-v1");
        broken["matches"] = json!([{"method": {"method": "Watch"},
            "headers": [{"type": "RegularExpression", "name": "x-case", "value": "("}]}]);
        json!([
            rule_for_case("nobody", backend("nobody")),
            rule_for_case("absent", backend("absent")),
            rule_for_case("weightless", weightless),
            rule_for_case("closed", backend("closed")),
            rule_for_case("closed-outside", backend("closed-outside")),
            rule_for_case("greets", backend("greets")),
            rule_for_case("extended", extended),
            broken,
        ])
    }

    pub(super) async fn routing_failures_are_grpc_statuses_with_a_cause(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let v1 = json!({"app": "reviews", "version": "v1"});
        apply_without_proxy(ns, objects::client("plain")).await?;
        for made in [
            service("nobody", json!({"app": "nobody"}), 9000),
            service("closed", v1.clone(), 9999),
            service("closed-outside", json!({"app": "plain"}), 9999),
            service("greets", v1, 7001),
        ] {
            ns.apply(made).await?;
        }
        ns.deploy_shop(&["v1"]).await?;
        ns.wait_until_ready("plain").await?;
        ns.route(objects::grpc_route("cases", rules())).await?;
        for (name, code, words) in [
            (
                "nobody",
                "Unavailable",
                "nobody:9000 has no ready endpoints",
            ),
            ("absent", "Internal", "absent"),
            ("weightless", "Internal", "all backendRefs have weight 0"),
            ("closed", "Unavailable", "turned the request away"),
            (
                "closed-outside",
                "Unavailable",
                "could be reached: connecting to",
            ),
            ("greets", "Unavailable", "broke off"),
            (
                "extended",
                "Internal",
                "\"Wizard\" of group \"example.org\" is not supported",
            ),
            ("none", "Unimplemented", "no rule of the routes of"),
        ] {
            let header = format!("x-case: {name}");
            check_failure(ns, ("client", URL), &["-H", &header], code, words).await?;
        }
        let watch = ["--grpc", "watch", "-H", "x-case: any"];
        let summary = ns.load("client", URL, &watch).await?;
        let answer = summary.all("Internal")?.first_response();
        let words = "a condition of the rule does not compile";
        anyhow::ensure!(
            answer.error().unwrap_or_default().contains(words),
            "{answer:?}"
        );
        let (words, long) = (
            "the head of the request is over 64 KiB or 512 fields",
            ["--long", "66000"],
        );
        check_failure(ns, ("client", URL), &long, "ResourceExhausted", words).await
    }

    /// An HTTPRoute, because GRPCRoutes have no timeouts.
    fn route_with_timeouts(name: &str, timeouts: Value) -> Value {
        let rules =
            json!([{"timeouts": timeouts, "backendRefs": [{"name": "reviews-v1", "port": 9000}]}]);
        objects::route("HTTPRoute", name, name, 9000, rules)
    }

    pub(super) async fn timeouts_and_rejections_are_grpc_statuses(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let v1 = json!({"app": "reviews", "version": "v1"});
        apply_without_proxy(ns, objects::client("plain")).await?;
        ns.apply(service("whole", v1.clone(), 9000)).await?;
        ns.apply(service("each", v1, 9000)).await?;
        ns.deploy_shop(&["v1"]).await?;
        ns.wait_until_ready("plain").await?;
        let whole = json!({"request": "300ms"});
        ns.accepted_route(route_with_timeouts("whole", whole))
            .await?;
        let each = json!({"request": "5s", "backendRequest": "300ms"});
        ns.accepted_route(route_with_timeouts("each", each)).await?;
        for (name, words) in [
            ("whole", "no complete answer within the request timeout"),
            ("each", "no answer of the backend within its timeout"),
        ] {
            let url = format!("http://{name}:9000");
            let slow = ["-H", "x-delay: 3000"];
            check_failure(ns, ("client", &url), &slow, "DeadlineExceeded", words).await?;
        }
        // On a probed port, plain text may come from the kubelet, so HTTP is parsed and rejected.
        ns.set_mtls("Pod", "reviews-v1", "strict".into()).await?;
        let ip = in_url(&ns.pod_ip("reviews-v1").await?);
        let probed = format!("http://{ip}:8080");
        let words = "which takes mutual TLS only";
        check_failure(ns, ("plain", &probed), &[], "PermissionDenied", words).await?;
        // On a port without probes, plain text is closed without a response.
        let closed = format!("http://{ip}:9000");
        check_failure(ns, ("plain", &closed), &[], "Unknown", "transport error").await?;
        let summary = ns.load("client", URL, &["--grpc", "get"]).await?;
        summary.all("OK").map(drop)
    }
}

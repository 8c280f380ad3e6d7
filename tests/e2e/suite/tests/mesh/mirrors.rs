//! Mirrors with a percentage or fraction: the number of copies, and that failing mirrors do not
//! affect requests.

cluster_tests! {
    run Meshed mirror_gets_its_percentage_or_fraction;
    run Meshed failing_mirrors_do_not_affect_requests;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::objects::{self, prefix, to};
    use weft_e2e::{TestNamespace, eventually};

    const REQUESTS: u32 = 500;

    /// Returns a mirror filter with a share of the requests.
    fn mirror(backend: &str, share: Value) -> Value {
        let mut mirror = json!({"backendRef": {"name": backend, "port": 80}});
        if let (Some(mirror), Some(share)) = (mirror.as_object_mut(), share.as_object()) {
            mirror.extend(share.clone());
        }
        json!({"type": "RequestMirror", "requestMirror": mirror})
    }

    /// Returns the number of inbound requests in the pod's access log for this path.
    async fn inbound_requests(ns: &TestNamespace, pod: &str, path: &str) -> anyhow::Result<usize> {
        Ok(ns.accesses(pod, "inbound", path).await?.len())
    }

    /// Five standard deviations of the binomial distribution: the probability of a value outside is
    /// below one in a million.
    fn bounds(share: f64) -> std::ops::RangeInclusive<usize> {
        let requests = f64::from(REQUESTS);
        let (mean, deviation) = (requests * share, (requests * share * (1.0 - share)).sqrt());
        (mean - 5.0 * deviation) as usize..=(mean + 5.0 * deviation) as usize
    }

    pub(super) async fn mirror_gets_its_percentage_or_fraction(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let fraction = json!({"fraction": {"numerator": 3, "denominator": 8}});
        let shares = [
            ("/reviews/twenty", json!({"percent": 20}), 0.2),
            ("/reviews/eighths", fraction, 0.375),
        ];
        let rule = |(path, share, _): &(&str, Value, f64)| {
            json!({"matches": [prefix(path)], "filters": [mirror("reviews-v2", share.clone())],
                "backendRefs": [to("v1", 1)]})
        };
        let mut rules: Vec<Value> = shares.iter().map(rule).collect();
        let all = json!({"matches": [prefix("/reviews/all")],
            "filters": [mirror("reviews-v2", json!({}))], "backendRefs": [to("v1", 1)]});
        rules.push(all);
        ns.accepted_route(objects::http_route("shares", rules.into()))
            .await?;
        eventually("the route to be in effect", async || {
            ns.load("client", "http://reviews/reviews/all", &[]).await?;
            let seen = inbound_requests(ns, "reviews-v2", "/reviews/all").await?;
            anyhow::ensure!(seen > 0, "no copy has arrived");
            Ok(())
        })
        .await?;
        let count = REQUESTS.to_string();
        for (path, _, share) in &shares {
            let url = format!("http://reviews{path}");
            let arguments = ["-n", &count, "-c", "4", "--keep", "0"];
            let summary = ns.load("client", &url, &arguments).await?;
            anyhow::ensure!(summary.version("v1") == u64::from(REQUESTS), "{summary}");
            let bounds = bounds(*share);
            eventually("the copies in the mirror's access log", async || {
                let seen = inbound_requests(ns, "reviews-v2", path).await?;
                anyhow::ensure!(
                    bounds.contains(&seen),
                    "{seen} copies of {path}, not {bounds:?}"
                );
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn failing_mirrors_do_not_affect_requests(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let v1 = json!({"app": "reviews", "version": "v1"});
        let service = |name: &str, labels: Value, port: u16| {
            let mut service = objects::service(name, labels);
            service["spec"]["ports"] = json!([{"name": "http", "port": 80, "targetPort": port}]);
            service
        };
        for made in [
            service("nobody", json!({"app": "nobody"}), 8080),
            service("closed", v1.clone(), 9999),
            // Sends bytes that are not HTTP.
            service("greets", v1, 7001),
        ] {
            ns.apply(made).await?;
        }
        let half = |name| mirror(name, json!({"percent": 50}));
        let filters = ["nobody", "closed", "greets"].map(half);
        let rules = json!([{"filters": filters, "backendRefs": [to("v1", 1)]}]);
        ns.accepted_route(objects::http_route("harmless", rules))
            .await?;
        eventually("copies to fail", async || {
            let post = [
                "--method", "POST", "--body", "20000", "-n", "100", "-c", "4",
            ];
            let summary = ns.load("client", "http://reviews/reviews/1", &post).await?;
            summary.all("200")?.all_from("v1")?;
            let metric = "weft_mirrored_requests_total";
            let failed = ns.metric("client", metric, &[r#"result="failed""#]).await?;
            anyhow::ensure!(failed > 50.0, "{failed} copies failed");
            Ok(())
        })
        .await
    }
}

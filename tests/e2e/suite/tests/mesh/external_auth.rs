//! External authorization on routes of Services: the client's proxy asks.

cluster_tests! {
    run Meshed route_of_a_service_asks_its_server;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::external_auth::filter;
    use weft_e2e::objects::{self, prefix, to};
    use weft_e2e::{TestNamespace, eventually};

    const SESSION: [&str; 2] = ["-H", "cookie: session=ana"];

    pub(super) async fn route_of_a_service_asks_its_server(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        ns.deploy_authorizer().await?;
        let rules: Vec<Value> = ["HTTP", "GRPC"]
            .iter()
            .map(|protocol| {
                let path = format!("/reviews/{}", protocol.to_lowercase());
                json!({"matches": [prefix(&path)], "filters": [filter(protocol)],
                    "backendRefs": [to("v1", 1)]})
            })
            .collect();
        ns.accepted_route(objects::http_route("guarded", rules.into()))
            .await?;
        for (path, denied) in [("/reviews/http", "302"), ("/reviews/grpc", "401")] {
            let url = format!("http://reviews{path}");
            eventually(&format!("the server to decide on {path}"), async || {
                let summary = ns.load("client", &url, &[]).await?;
                summary.all(denied)?;
                let summary = ns.load("client", &url, &SESSION).await?;
                summary.all("200")?;
                let response = summary.first_response();
                let user = response.received("x-auth-request-user");
                anyhow::ensure!(user == Some("ana"), "{response:?}");
                Ok(())
            })
            .await?;
        }
        // The server is told who asks.
        let summary = ns
            .load("client", "http://reviews/reviews/grpc", &SESSION)
            .await?;
        let response = summary.first_response();
        let principal = response.received("x-auth-principal").unwrap_or_default();
        let namespace = format!("/ns/{}/sa/", ns.namespace);
        anyhow::ensure!(
            principal.starts_with("spiffe://") && principal.contains(&namespace),
            "{response:?}"
        );
        Ok(())
    }
}

//! Exchanges with real servers: through a proxy at either end, at both, and through a Gateway they
//! are as without Weft.
//!
//! The differential test in memory (`proxy/tests/differential`) covers framing in breadth with an
//! application of its own; only here do packets of a real server cross the redirect rules.

cluster_tests! {
    run Meshed servers_answer_as_without_proxies;
    run Meshed posts_to_servers_that_close_idle_connections_succeed;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::gateways::{gateway, listener, route};
    use weft_e2e::servers::SERVERS;
    use weft_e2e::{TestNamespace, objects};

    /// The copy of a server that has no proxy.
    fn plain(server: &str) -> String {
        format!("{server}-plain")
    }

    async fn deploy(ns: &TestNamespace, servers: &[(&str, &[&str])]) -> anyhow::Result<()> {
        ns.apply(objects::account("servers")).await?;
        ns.deploy_raw_client("inside", true).await?;
        ns.deploy_raw_client("outside", false).await?;
        for (name, command) in servers {
            ns.deploy_server(name, command, true).await?;
            ns.deploy_server(&plain(name), command, false).await?;
        }
        for (name, _) in servers {
            ns.wait_until_ready(name).await?;
            ns.wait_until_ready(&plain(name)).await?;
        }
        ns.wait_until_ready("inside").await?;
        ns.wait_until_ready("outside").await.map(drop)
    }

    /// Routes `SERVER.test` of a Gateway to each server, and returns the Gateway's address.
    async fn deploy_gateway(ns: &TestNamespace) -> anyhow::Result<String> {
        let address = ns
            .gateway(gateway("front", json!([listener("http", "HTTP", 80)])))
            .await?;
        for (name, _) in SERVERS {
            let rules = json!([{"backendRefs": [{"name": name, "port": 80}]}]);
            let mut route = route("HTTPRoute", name, "front", "", rules);
            route["spec"]["hostnames"] = json!([format!("{name}.test")]);
            ns.gateway_route(route).await?;
        }
        Ok(address)
    }

    /// How an exchange arrives.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Way {
        BothProxies,
        ServersProxy,
        ClientsProxy,
        Gateway,
    }

    /// Returns the exchange whose direct result one that goes this way has.
    fn counterpart(way: Way, case: &str) -> &str {
        match (way, case) {
            // RFC 9113, 8.2.3: fields of HTTP/2 are one line in HTTP/1.1.
            (Way::BothProxies | Way::Gateway, "two cookie fields") => "two cookies",
            // docs/reference/gateways.md, "Path normalization".
            (Way::Gateway, "target in two spellings") => "target in one spelling",
            (_, case) => case,
        }
    }

    /// Returns the exchanges that went otherwise than directly.
    fn differences(way: Way, server: &str, direct: &Value, seen: &Value) -> Vec<String> {
        let mut differences = Vec::new();
        for case in direct
            .as_object()
            .into_iter()
            .flatten()
            .map(|(case, _)| case)
        {
            let (expected, got) = (&direct[counterpart(way, case)], &seen[case]);
            if got != expected {
                let text =
                    format!("{server}, {way:?}, {case}:\n  direct {expected}\n  got    {got}");
                differences.push(text);
            }
        }
        differences
    }

    pub(super) async fn servers_answer_as_without_proxies(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy(ns, &SERVERS).await?;
        let gateway = deploy_gateway(ns).await?;
        let mut wrong = Vec::new();
        for (server, _) in SERVERS {
            let copy = plain(server);
            let (meshed, unmeshed) = (ns.pod_ip(server).await?, ns.pod_ip(&copy).await?);
            let direct = ns
                .raw_exchanges("outside", (&unmeshed, "8080"), server, &[])
                .await?;
            anyhow::ensure!(
                direct["get"][0]["status"] == 200 && direct["post"][0]["status"] == 200,
                "{server} without proxies: {direct}"
            );
            for (way, pod, address) in [
                (Way::BothProxies, "inside", (server, "80")),
                (Way::ServersProxy, "outside", (&*meshed, "8080")),
                (Way::ClientsProxy, "inside", (&*copy, "80")),
                (Way::Gateway, "outside", (&*gateway, "80")),
            ] {
                let seen = ns.raw_exchanges(pod, address, server, &[]).await?;
                wrong.extend(differences(way, server, &direct, &seen));
            }
        }
        anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }

    pub(super) async fn posts_to_servers_that_close_idle_connections_succeed(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        const COUNT: usize = 40;
        let closing: Vec<_> = SERVERS
            .into_iter()
            .filter(|(name, _)| ["node", "haproxy"].contains(name))
            .collect();
        deploy(ns, &closing).await?;
        for (server, _) in closing {
            for name in [server.to_owned(), plain(server)] {
                let count = COUNT.to_string();
                let statuses = ns
                    .raw_exchanges("inside", (&name, "80"), server, &[&count])
                    .await?;
                anyhow::ensure!(statuses == json!(vec![200; COUNT]), "{name}: {statuses}");
            }
        }
        Ok(())
    }
}

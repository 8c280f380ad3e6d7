//! Opaque TCP connections: how they are routed, logged and counted.

cluster_tests! {
    run Meshed tcp_route_follows_weights_and_logs_connections;
    run Meshed tls_route_matches_the_server_name;
    run Meshed conflicting_opaque_routes_of_a_port_are_rejected;
    run Meshed opaque_bytes_bypass_http_route_on_undeclared_port;
}

mod cases {
    use std::sync::Arc;

    use anyhow::Context;
    use serde_json::{Value, json};
    use weft_e2e::objects::route;
    use weft_e2e::{TestNamespace, eventually};

    fn tcp_route(name: &str, port: u16, backends: Value) -> Value {
        route(
            "TCPRoute",
            name,
            "reviews",
            port,
            json!([{"backendRefs": backends}]),
        )
    }

    fn tls_route(name: &str, hostname: &str, backends: Value) -> Value {
        let mut route = route(
            "TLSRoute",
            name,
            "reviews",
            7001,
            json!([{"backendRefs": backends}]),
        );
        route["spec"]["hostnames"] = json!([hostname]);
        route
    }

    fn backend(version: &str, port: u16, weight: u32) -> Value {
        json!({"name": format!("reviews-{version}"), "port": port, "weight": weight})
    }

    /// Sends bytes, given in hexadecimal, to a port of the reviews and returns the response.
    async fn send_bytes(ns: &TestNamespace, port: u16, hex: &str) -> anyhow::Result<String> {
        let connect = format!("reviews:{port}");
        let command = [
            "weft-shop",
            "talk",
            "--connect",
            &connect,
            "--send-hex",
            hex,
        ];
        ns.exec("client", "shop", &command).await
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Returns the ClientHello of a client that connects to the server `name`.
    fn client_hello(name: &'static str) -> anyhow::Result<Vec<u8>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name)?;
        let mut session = rustls::ClientConnection::new(Arc::new(config), name)?;
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes)?;
        Ok(bytes)
    }

    /// On port 7001 the server sends its version first.
    pub(super) async fn tcp_route_follows_weights_and_logs_connections(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let backends = json!([backend("v1", 7001, 0), backend("v2", 7001, 1)]);
        ns.accepted_route(tcp_route("second", 7001, backends))
            .await?;
        eventually("connections to go to v2", async || {
            let received = send_bytes(ns, 7001, &hex(b"hello")).await?;
            anyhow::ensure!(received == "220 reviews v2\r\nhello", "{received:?}");
            Ok(())
        })
        .await?;
        for _ in 0..10 {
            let received = send_bytes(ns, 7001, &hex(b"hello")).await?;
            anyhow::ensure!(received.starts_with("220 reviews v2"), "{received:?}");
        }
        let namespace = &ns.namespace;
        let name = format!("TCPRoute {namespace}/second");
        let labels = [
            "route_kind=\"TCPRoute\"",
            &*format!("route_namespace=\"{namespace}\""),
            "route_name=\"second\"",
            "result=\"ok\"",
        ];
        let counted = ns.metric("client", "weft_opaque_connections_total", &labels);
        let counted = counted.await?;
        anyhow::ensure!(counted >= 10.0, "only {counted} connections were counted");
        eventually("the connection in the access log", async || {
            let lines = ns.access_log("client").await?;
            let line = lines.iter().find(|line| line.is("route", &name));
            let line = line.with_context(|| format!("{lines:?}"))?;
            for (field, value) in [
                ("protocol", "tcp"),
                ("backend", &*format!("{namespace}/reviews-v2:7001")),
                ("bytes_in", "5"),
                ("bytes_out", "21"),
            ] {
                anyhow::ensure!(line.is(field, value), "{field}: {line:?}");
            }
            anyhow::ensure!(line.text("server_id").ends_with("/sa/reviews"), "{line:?}");
            Ok(())
        })
        .await
    }

    pub(super) async fn tls_route_matches_the_server_name(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let to = |version| json!([backend(version, 7001, 1)]);
        ns.accepted_route(tls_route("one", "one.example.com", to("v1")))
            .await?;
        ns.accepted_route(tls_route("others", "*.example.com", to("v2")))
            .await?;
        eventually("both routes to be in effect", async || {
            for (name, greeting) in [
                ("one.example.com", "220 reviews v1\r\n"),
                ("two.example.com", "220 reviews v2\r\n"),
                ("a.one.example.com", "220 reviews v2\r\n"),
            ] {
                let received = send_bytes(ns, 7001, &hex(&client_hello(name)?)).await?;
                anyhow::ensure!(received.starts_with(greeting), "{name}: {received:?}");
            }
            Ok(())
        })
        .await?;
        let error = "weft_protocol_errors_total";
        for (bytes, reason) in [
            (client_hello("example.com")?, "error_type=\"no_route\""),
            (b"not TLS".to_vec(), "error_type=\"not_tls\""),
        ] {
            let before = ns.metric("client", error, &[reason]).await?;
            let received = send_bytes(ns, 7001, &hex(&bytes)).await?;
            anyhow::ensure!(!received.contains("220 "), "{reason}: {received:?}");
            let after = ns.metric("client", error, &[reason]).await?;
            anyhow::ensure!(after > before, "{reason} was not counted");
        }
        Ok(())
    }

    pub(super) async fn conflicting_opaque_routes_of_a_port_are_rejected(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        let to = |version| json!([backend(version, 7001, 1)]);
        ns.accepted_route(tls_route("tls", "one.example.com", to("v1")))
            .await?;
        let conditions = ns.route(tcp_route("tcp", 7001, to("v2"))).await?;
        conditions.is_false("Accepted", "Conflicted", &["TLSRoute", "/tls"])?;
        ns.accepted_route(tcp_route("first", 7000, json!([backend("v1", 7000, 1)])))
            .await?;
        let conditions = ns.route(tcp_route("second", 7000, json!([backend("v2", 7000, 1)])));
        let conditions = conditions.await?;
        conditions.is_false("Accepted", "Conflicted", &["TCPRoute", "/first"])?;
        let absent = json!([{"name": "absent", "port": 1}]);
        let conditions = ns.route(tcp_route("nowhere", 9000, absent)).await?;
        conditions.is_false("ResolvedRefs", "BackendNotFound", &["absent"])
    }

    pub(super) async fn opaque_bytes_bypass_http_route_on_undeclared_port(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1", "v2"]).await?;
        // HTTP is routed to v2. The port is named `greet`, which declares no protocol, and the
        // Service selects only v1.
        let rules = json!([{"backendRefs": [backend("v2", 80, 1)]}]);
        ns.accepted_route(route("HTTPRoute", "http", "reviews-v1", 7001, rules))
            .await?;
        eventually("the route to be in effect", async || {
            let url = "http://reviews-v1:7001/reviews/1";
            let summary = ns.load("client", url, &[]).await?;
            anyhow::ensure!(summary.version("v2") == 1, "{summary}");
            Ok(())
        })
        .await?;
        let talk = [
            "weft-shop",
            "talk",
            "--connect",
            "reviews-v1:7001",
            "--listen-first",
        ];
        let received = ns.exec("client", "shop", &talk).await?;
        anyhow::ensure!(received == "220 reviews v1\r\n", "{received:?}");
        Ok(())
    }
}

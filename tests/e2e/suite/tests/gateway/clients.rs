//! Common programs as clients of a gateway.

cluster_tests! {
    run Unmeshed curl_is_served_over_http1_and_http2;
    run Unmeshed openssl_connects_with_tls_1_2_and_1_3_only;
    run Unmeshed tcp_route_serves_nc;
    run Unmeshed udp_route_serves_dig;
    run Unmeshed grpc_route_serves_go_and_rust_clients;
    run Unmeshed websocket_serves_go_client_and_browser;
}

mod cases {
    use kube::api::DeleteParams;
    use serde_json::{Value, json};
    use weft_e2e::gateways::{gateway, https, listener, route, tls_secret};
    use weft_e2e::host::{self, curl, in_url, run};
    use weft_e2e::https_client::SelfSigned;
    use weft_e2e::{TestNamespace, eventually, objects};

    /// A server of the conformance suite for gRPC and WebSocket; `tests/e2e/suite/run` loads it.
    const ECHO: &str = "registry.k8s.io/gateway-api/conformance/echo-advanced:v0.1.0";

    fn plain() -> Value {
        gateway("edge", json!([listener("http", "HTTP", 80)]))
    }

    async fn deploy_with_tls(ns: &TestNamespace) -> anyhow::Result<(String, String)> {
        let host = "shop.example.com";
        let pair = SelfSigned::new(&[host])?;
        ns.apply(tls_secret("cert", &pair.certificate, &pair.key))
            .await?;
        let listeners = json!([listener("http", "HTTP", 80), https("https", host, "cert")]);
        let address = ns.deploy_gateway(gateway("edge", listeners)).await?;
        let file = std::env::temp_dir().join(format!("{}.crt", ns.namespace));
        std::fs::write(&file, &pair.certificate)?;
        Ok((address, file.to_string_lossy().into_owned()))
    }

    pub(super) async fn curl_is_served_over_http1_and_http2(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let (address, authority) = deploy_with_tls(ns).await?;
        let address = in_url(&address);
        let http = format!("http://{address}/reviews/1");
        let resolve = format!("shop.example.com:443:{address}");
        let https = [
            "--cacert",
            &authority,
            "--resolve",
            &resolve,
            "https://shop.example.com/reviews/1",
        ];
        for (version, arguments) in [
            ("HTTP/1.0", &["--http1.0", &http][..]),
            ("HTTP/1.1", &["--http1.1", &http]),
            ("HTTP/2", &["--http2-prior-knowledge", &http]),
            ("HTTP/1.1", &[&["--http1.1"][..], &https[..]].concat()),
            ("HTTP/2", &[&["--http2"][..], &https[..]].concat()),
            ("HTTP/2", &[&["--tlsv1.3"][..], &https[..]].concat()),
            ("HTTP/2", &[&["--tls-max", "1.2"][..], &https[..]].concat()),
        ] {
            eventually(&format!("{version} {arguments:?}"), async || {
                let reply = curl(arguments).await?;
                anyhow::ensure!(reply.is(200)?.json()?["version"] == "v1", "{reply:?}");
                // A server may respond to HTTP/1.0 with HTTP/1.1.
                let fits = reply.version == version
                    || (version == "HTTP/1.0" && reply.version == "HTTP/1.1");
                anyhow::ensure!(fits, "{reply:?}");
                // A backend without `appProtocol` gets HTTP/1.1.
                anyhow::ensure!(reply.json()?["protocol"] == "HTTP/1.1", "{reply:?}");
                Ok(())
            })
            .await?;
        }
        let head = curl(&[&["--head"][..], &https[..]].concat()).await?;
        anyhow::ensure!(head.is(200)?.body.is_empty(), "{head:?}");
        std::fs::remove_file(authority)?;
        Ok(())
    }

    pub(super) async fn openssl_connects_with_tls_1_2_and_1_3_only(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let (address, authority) = deploy_with_tls(ns).await?;
        let connect = format!("{}:443", in_url(&address));
        let client = async |name: &str, more: &[&str]| {
            // s_client may wait for more than the session tickets without limit.
            let common = [
                "5",
                "openssl",
                "s_client",
                "-connect",
                &connect,
                "-servername",
                name,
                "-brief",
                "-CAfile",
                &authority,
            ];
            run("timeout", &[&common[..], more].concat()).await
        };
        let host = "shop.example.com";
        for (more, words) in [
            (&["-tls1_3"][..], "TLSv1.3"),
            (&["-tls1_2"], "TLSv1.2"),
            (&["-alpn", "h2,http/1.1"], "Verification: OK"),
        ] {
            eventually(words, async || {
                let output = client(host, more).await?;
                anyhow::ensure!(output.ok && output.err.contains(words), "{output:?}");
                Ok(())
            })
            .await?;
        }
        // Obsolete versions, and names that no listener has.
        let old = client(host, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]).await?;
        anyhow::ensure!(!old.ok, "TLS 1.1 was accepted: {old:?}");
        let unknown = client("other.example.com", &[]).await?;
        anyhow::ensure!(
            !unknown.ok && unknown.err.contains("unrecognized name"),
            "{unknown:?}"
        );
        std::fs::remove_file(authority)?;
        Ok(())
    }

    pub(super) async fn tcp_route_serves_nc(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_reviews("v1").await?;
        let listeners = json!([listener("tcp", "TCP", 7000)]);
        let address = ns.gateway(gateway("edge", listeners)).await?;
        let rules = json!([{"backendRefs": [{"name": "reviews-v1", "port": 7000}]}]);
        ns.gateway_route(route("TCPRoute", "echo", "edge", "tcp", rules))
            .await?;
        eventually("the TCP echo", async || {
            let talk = format!("echo 'through the gateway' | nc -N -w 5 {address} 7000");
            let received = run("bash", &["-c", &talk]).await?.success()?;
            anyhow::ensure!(received == "through the gateway\n", "{received:?}");
            Ok(())
        })
        .await
    }

    /// Returns a Service without selector, and its EndpointSlice with the addresses of the
    /// cluster's name servers.
    fn dns_service(addresses: &[&str]) -> [Value; 2] {
        let ports = |key: &str| json!([{"name": "dns", "protocol": "UDP", key: 53}]);
        let endpoints = addresses
            .iter()
            .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}));
        [
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns"},
                "spec": {"ports": [{"name": "dns", "protocol": "UDP", "port": 53}]},
            }),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": "dns", "labels": {"kubernetes.io/service-name": "dns"}},
                "addressType": objects::address_type(addresses[0]), "ports": ports("port"), "endpoints": endpoints.collect::<Vec<_>>(),
            }),
        ]
    }

    pub(super) async fn udp_route_serves_dig(ns: &TestNamespace) -> anyhow::Result<()> {
        let servers = ns
            .in_namespace("kube-system")
            .list("v1", "Pod", "k8s-app=kube-dns")
            .await?;
        let addresses: Vec<&str> = servers
            .iter()
            .filter_map(|pod| pod["status"]["podIP"].as_str())
            .collect();
        anyhow::ensure!(!addresses.is_empty(), "the cluster has no DNS server pods");
        for object in dns_service(&addresses) {
            ns.apply(object).await?;
        }
        // The name servers' pods are in another namespace, which needs a ReferenceGrant.
        let system = ns.in_namespace("kube-system");
        system.apply(grant(&ns.namespace)).await?;
        let answered = dig_through_gateway(ns).await;
        let grants = system.api("gateway.networking.k8s.io/v1beta1", "ReferenceGrant");
        grants
            .delete(&ns.namespace, &DeleteParams::default())
            .await?;
        answered
    }

    /// Returns a ReferenceGrant that lets EndpointSlices of a namespace refer to pods.
    fn grant(from: &str) -> Value {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant", "metadata": {"name": from},
            "spec": {
                "from": [{"group": "discovery.k8s.io", "kind": "EndpointSlice", "namespace": from}],
                "to": [{"group": "", "kind": "Pod"}],
            },
        })
    }

    async fn dig_through_gateway(ns: &TestNamespace) -> anyhow::Result<()> {
        let listeners = json!([listener("dns", "UDP", 53)]);
        let address = ns.gateway(gateway("edge", listeners)).await?;
        let rules = json!([{"backendRefs": [{"name": "dns", "port": 53}]}]);
        ns.gateway_route(route("UDPRoute", "dns", "edge", "dns", rules))
            .await?;
        let wanted = ns.in_namespace("default").cluster_ip("kubernetes").await?;
        let of = if wanted.contains(':') { "AAAA" } else { "A" };
        let at = format!("@{address}");
        eventually("the DNS response", async || {
            let name = "kubernetes.default.svc.cluster.local";
            let answer = run("dig", &[&at, "+short", "+tries=1", "+timeout=3", name, of]).await?;
            let answer = answer.success()?;
            anyhow::ensure!(answer.trim() == wanted, "{answer:?} is not {wanted}");
            Ok(())
        })
        .await
    }

    /// Deploys the suite's server with HTTP on 8080 and gRPC on 7070 behind the Service `echo`.
    async fn deploy_echo(ns: &TestNamespace) -> anyhow::Result<()> {
        let mut pod = objects::pod(
            "echo",
            "reviews",
            json!({"app": "echo"}),
            &["--grpc", "7070", "--port", "8080"],
        );
        pod["spec"]["containers"][0]["image"] = ECHO.into();
        let first = ns.families().await?.first().copied();
        let any = if first == Some("IPv6") {
            "::"
        } else {
            "0.0.0.0"
        };
        pod["spec"]["containers"][0]["env"] = json!([{"name": "INSTANCE_IPS", "value": any}]);
        pod["spec"]["containers"][0]["readinessProbe"] =
            json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1});
        ns.apply(pod).await?;
        ns.apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo"},
            "spec": {"selector": {"app": "echo"}, "ports": [
                {"name": "http", "port": 80, "targetPort": 8080},
                {"name": "grpc", "port": 7070, "targetPort": 7070},
            ]},
        }))
        .await?;
        ns.wait_until_ready("echo").await.map(drop)
    }

    pub(super) async fn grpc_route_serves_go_and_rust_clients(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy_echo(ns).await?;
        ns.deploy_reviews("v1").await?;
        let address = in_url(&ns.gateway(plain()).await?);
        let rules = json!([
            {"matches": [{"method": {"service": "proto.EchoTestService"}}], "backendRefs": [{"name": "echo", "port": 7070}]},
            {"matches": [{"method": {"service": "shop.Reviews"}}], "backendRefs": [{"name": "reviews-v1", "port": 9000}]},
        ]);
        ns.gateway_route(route("GRPCRoute", "both", "edge", "", rules))
            .await?;
        let go = host::root().join("target/cluster/bin/echo-client");
        let url = format!("grpc://{address}:80");
        eventually("the Go client to get responses", async || {
            let output = run(&go.to_string_lossy(), &["--count", "3", &url]).await?;
            let received = output.success()?;
            anyhow::ensure!(
                received.matches("StatusCode=200").count() == 3,
                "{received}"
            );
            Ok(())
        })
        .await?;
        let url = format!("http://{address}");
        for method in ["get", "watch"] {
            let summary = host::load(&url, &["--grpc", method, "-n", "20"]).await?;
            summary.all("OK")?;
        }
        Ok(())
    }

    /// Returns a page that sends a WebSocket message and shows the first response.
    fn page(address: &str) -> String {
        format!(
            "<html><body>waiting<script>
            const socket = new WebSocket('ws://{address}/');
            socket.onopen = () => socket.send('hello of a browser');
            socket.onmessage = (event) => {{ document.body.textContent = 'received: ' + event.data; }};
            socket.onclose = (event) => {{ document.body.textContent += ' closed ' + event.code; }};
            </script></body></html>"
        )
    }

    pub(super) async fn websocket_serves_go_client_and_browser(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        deploy_echo(ns).await?;
        let address = in_url(&ns.gateway(plain()).await?);
        let rules = json!([{"backendRefs": [{"name": "echo", "port": 80}]}]);
        ns.gateway_route(route("HTTPRoute", "echo", "edge", "", rules))
            .await?;
        let go = host::root().join("target/cluster/bin/echo-client");
        let url = format!("ws://{address}/");
        eventually("the Go client to get responses", async || {
            let output = run(&go.to_string_lossy(), &["--msg", "hello of Go", &url]).await?;
            let received = output.success()?;
            anyhow::ensure!(received.contains("hello of Go"), "{received}");
            Ok(())
        })
        .await?;
        let folder = std::env::temp_dir().join(format!("{}-browser", ns.namespace));
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("page.html");
        std::fs::write(&file, page(&address))?;
        let profile = format!("--user-data-dir={}", folder.join("profile").display());
        let url = format!("file://{}", file.display());
        let browser = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            &profile,
            "--timeout=8000",
            "--dump-dom",
            &url,
        ];
        let shown = run("chromium", &browser).await;
        std::fs::remove_dir_all(&folder)?;
        let shown = shown?.success()?;
        let received = shown.contains("received: ") && shown.contains("hello of a browser");
        anyhow::ensure!(received, "the browser got no message: {shown}");
        Ok(())
    }
}

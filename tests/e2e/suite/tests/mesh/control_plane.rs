//! The injector: unavailable, and with malformed requests.

cluster_tests! {
    run_alone Unmeshed unlabelled_namespace_starts_pods_without_injector;
    run Unmeshed webhook_rejects_malformed_requests;
}

mod cases {
    use serde_json::json;
    use weft_e2e::host::in_url;
    use weft_e2e::{TestNamespace, control_plane, objects, tls_client};

    pub(super) async fn unlabelled_namespace_starts_pods_without_injector(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let replicas = control_plane::replicas(&ns.client, "weft-injector").await?;
        let outcome = async {
            control_plane::scale(&ns.client, "weft-injector", 0).await?;
            ns.apply(objects::client("client")).await?;
            ns.wait_until_ready("client").await
        }
        .await;
        // Restored whether or not the test failed.
        control_plane::scale(&ns.client, "weft-injector", replicas).await?;
        outcome.map(drop)
    }

    /// Sends a POST to the webhook on its own connection and returns the whole response.
    async fn post(address: &str, kind: &str, body: &[u8]) -> anyhow::Result<String> {
        let mut stream = tls_client::connect(address, None, None).await?;
        let mut request = format!(
            "POST /mutate HTTP/1.1\r\nhost: weft-injector\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        tls_client::exchange(&mut stream, &request).await
    }

    pub(super) async fn webhook_rejects_malformed_requests(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let before = control_plane::restarts(&ns.client).await?;
        let address = control_plane::system(&ns.client)
            .cluster_ip("weft-injector")
            .await?;
        let address = format!("{}:443", in_url(&address));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let huge = vec![b' '; 16 << 20];
        let odd: [(&str, &[u8]); 6] = [
            ("application/json", b""),
            ("application/json", b"{\"kind\": \"AdmissionReview\""),
            ("application/json", b"[1, 2, 3]"),
            ("text/plain", b"hello"),
            ("application/json", deep.as_bytes()),
            ("application/json", &huge),
        ];
        for (kind, body) in odd {
            let answer = post(&address, kind, body).await?;
            let shown: String = answer.chars().take(300).collect();
            let refused = answer.starts_with("HTTP/1.1 4");
            // The connection may be reset before the response to a huge body is read.
            let cut_off = body.len() > 1 << 20 && answer.is_empty();
            anyhow::ensure!(
                refused || cut_off,
                "{} bytes of {kind} should be rejected with 4xx: {shown}",
                body.len()
            );
        }
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "6b4b1b3e-0000-4000-8000-000000000001",
                "kind": {"group": "", "version": "v1", "kind": "ConfigMap"},
                "resource": {"group": "", "version": "v1", "resource": "configmaps"},
                "operation": "CREATE", "namespace": ns.namespace, "userInfo": {},
                "object": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "no-pod"}},
            },
        });
        let answer = post(&address, "application/json", review.to_string().as_bytes()).await?;
        let patched = answer.contains("\"patch\":");
        anyhow::ensure!(
            !patched && answer.starts_with("HTTP/1.1 "),
            "an object other than a pod should get no patch: {answer}"
        );
        anyhow::ensure!(
            control_plane::restarts(&ns.client).await? == before,
            "the injector crashed"
        );
        // The webhook still injects pods.
        let mut pod = objects::client("client");
        pod["metadata"]["labels"]["weft.dev/inject"] = "enabled".into();
        let pod = ns.apply(pod).await?;
        let names = objects::names(&pod["spec"]["initContainers"]);
        anyhow::ensure!(names == ["weft-init", "weft-proxy"], "{names:?}");
        Ok(())
    }
}

//! Workload identity: both ends verify each other, and the certificate authority and the controller
//! reject invalid requests.

cluster_tests! {
    run Meshed client_and_server_identities_are_logged;
    run Meshed missing_or_self_signed_certificate_is_rejected;
    run Meshed token_sent_from_another_address_is_rejected;
    run Meshed csr_for_another_service_account_is_rejected;
    run Meshed token_for_another_audience_is_rejected;
    run Meshed malformed_tokens_and_csrs_are_rejected;
    run Meshed subscription_without_certificate_is_rejected;
}

mod cases {
    use rcgen::KeyPair;
    use tokio_stream::once;
    use tonic::{Code, Status};
    use weft_api::proto::mesh_client::MeshClient;
    use weft_api::proto::{Hello, ProxyMessage, proxy_message};
    use weft_e2e::host::in_url;
    use weft_e2e::{TestNamespace, eventually, identity, objects, tls_client};

    pub(super) async fn client_and_server_identities_are_logged(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let (client, server) = (
            identity::spiffe(&ns.namespace, "client"),
            identity::spiffe(&ns.namespace, "reviews"),
        );
        ns.load("client", "http://reviews/reviews/known", &["-n", "10"])
            .await?
            .all("200")?;
        ns.load(
            "client",
            "http://reviews:9000",
            &["--grpc", "get", "-n", "10"],
        )
        .await?
        .all("OK")?;
        for path in ["/reviews/known", "/shop.Reviews/Get"] {
            for (pod, direction) in [("client", "outbound"), ("reviews-v1", "inbound")] {
                let accesses = eventually("the requests in the access logs", async || {
                    let accesses = ns.accesses(pod, direction, path).await?;
                    anyhow::ensure!(accesses.len() == 10, "{accesses:?}");
                    Ok(accesses)
                })
                .await?;
                let known = accesses
                    .iter()
                    .all(|one| one.is("client_id", &client) && one.is("server_id", &server));
                anyhow::ensure!(known, "{direction}: {accesses:?}");
            }
        }
        for (pod, direction) in [("client", "outbound"), ("reviews-v1", "inbound")] {
            let label = format!("direction=\"{direction}\"");
            let handshakes = ns
                .metric(pod, "weft_tls_handshakes_total", &[&label])
                .await?;
            let requests = ns.metric(pod, "weft_requests_total", &[&label]).await?;
            anyhow::ensure!(
                handshakes >= 1.0 && requests >= 20.0,
                "{pod}: {handshakes} handshakes, {requests} requests"
            );
        }
        Ok(())
    }

    /// Connects with this certificate, sends the HTTP/2 preface like a proxy, and returns the
    /// response; empty if the handshake fails.
    async fn preface_response(
        address: &str,
        certificate: Option<tls_client::ClientCertificate>,
    ) -> anyhow::Result<Vec<u8>> {
        let stream = tls_client::reach(address).await?;
        let shaken = tls_client::handshake(stream, Some("weft/h2"), certificate).await;
        let Ok(mut stream) = shaken else {
            return Ok(Vec::new());
        };
        Ok(tls_client::exchange_http2_prefaces(&mut stream)
            .await
            .unwrap_or_default())
    }

    pub(super) async fn missing_or_self_signed_certificate_is_rejected(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let uri = identity::spiffe(&ns.namespace, "client");
        let address = format!("{}:80", in_url(&ns.cluster_ip("reviews").await?));

        anyhow::ensure!(
            preface_response(&address, None).await?.is_empty(),
            "served without a certificate"
        );
        let key = KeyPair::generate()?;
        let own = identity::parameters(&uri)?.self_signed(&key)?;
        let shown = (
            vec![own.der().clone()],
            key.serialize_der().try_into().map_err(anyhow::Error::msg)?,
        );
        anyhow::ensure!(
            preface_response(&address, Some(shown)).await?.is_empty(),
            "served with a self-signed certificate"
        );

        let failures = ns
            .metric(
                "reviews-v1",
                "weft_tls_handshakes_total",
                &["direction=\"inbound\""],
            )
            .await?;
        let good = ns
            .metric(
                "reviews-v1",
                "weft_tls_handshakes_total",
                &["direction=\"inbound\"", "result=\"ok\""],
            )
            .await?;
        anyhow::ensure!(
            failures > good,
            "failed handshakes should be counted: {failures} in all, {good} succeeded"
        );
        Ok(())
    }

    /// Deploys the pod `client` and requests a certificate for `account` with a token for
    /// `audience`; returns the length of the chain.
    async fn request_certificate(
        ns: &TestNamespace,
        audience: &str,
        account: &str,
    ) -> anyhow::Result<Result<usize, Status>> {
        ns.apply(objects::client("client")).await?;
        ns.wait_until_ready("client").await?;
        let request = identity::request(&identity::spiffe(&ns.namespace, account))?;
        let token = identity::token(ns, "client", audience, "client").await?;
        Ok(identity::sign(ns, &request.csr, &token)
            .await?
            .map(|signed| signed.chain.len()))
    }

    /// Fails unless the response has this code and its message contains `why`.
    fn check_rejected<T: std::fmt::Debug>(
        answer: &Result<T, Status>,
        code: Code,
        why: &str,
    ) -> anyhow::Result<()> {
        let refused = |status: &Status| status.code() == code && status.message().contains(why);
        anyhow::ensure!(answer.as_ref().is_err_and(refused), "{answer:?}");
        Ok(())
    }

    /// The token is valid and its pod has a certificate; only the source address differs.
    pub(super) async fn token_sent_from_another_address_is_rejected(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let refused = request_certificate(ns, identity::AUDIENCE, "client").await?;
        check_rejected(&refused, Code::PermissionDenied, "address")
    }

    pub(super) async fn csr_for_another_service_account_is_rejected(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let refused = request_certificate(ns, identity::AUDIENCE, "reviews").await?;
        let why = "requests another service account than the token's";
        check_rejected(&refused, Code::PermissionDenied, why)
    }

    pub(super) async fn token_for_another_audience_is_rejected(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let audience = format!("{}.example/else", ns.namespace);
        let refused = request_certificate(ns, &audience, "client").await?;
        let why = "not for the audience";
        check_rejected(&refused, Code::Unauthenticated, why)
    }

    pub(super) async fn malformed_tokens_and_csrs_are_rejected(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.apply(objects::client("client")).await?;
        ns.wait_until_ready("client").await?;
        let request = identity::request(&identity::spiffe(&ns.namespace, "client"))?;
        for (token, why) in [
            ("", "has no token"),
            (
                "no.token.at-all",
                "not a projected token of a service account",
            ),
            (&"x".repeat(20_000), "the token has 20000 bytes"),
        ] {
            let refused = identity::sign(ns, &request.csr, token).await?;
            check_rejected(&refused, Code::Unauthenticated, why)?;
        }
        // A message over the size limit is not parsed.
        let refused = identity::sign(ns, &request.csr, &"x".repeat(50_000)).await?;
        anyhow::ensure!(
            refused
                .as_ref()
                .is_err_and(|status| status.code() == Code::OutOfRange),
            "{refused:?}"
        );
        let token = identity::token(ns, "client", identity::AUDIENCE, "client").await?;
        for csr in [
            &b""[..],
            b"not a request",
            &request.csr[..request.csr.len() / 2],
        ] {
            let refused = identity::sign(ns, csr, &token).await?;
            check_rejected(&refused, Code::InvalidArgument, "")?;
        }
        Ok(())
    }

    /// Sends Hello for a pod without a client certificate; returns the status, or Ok if an update
    /// arrives.
    async fn hello(ns: &TestNamespace, pod: &str) -> anyhow::Result<Result<(), Status>> {
        let mut mesh = MeshClient::new(identity::controller(ns).await?);
        let hello = Hello {
            namespace: ns.namespace.clone(),
            pod: pod.to_owned(),
            ..Default::default()
        };
        let message = ProxyMessage {
            kind: Some(proxy_message::Kind::Hello(hello)),
        };
        // The stream stays open after Hello, as a proxy's does.
        let messages = tokio_stream::StreamExt::chain(once(message), tokio_stream::pending());
        Ok(match mesh.subscribe(messages).await {
            Ok(updates) => match updates.into_inner().message().await {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(Status::unknown("closed without an update")),
                Err(status) => Err(status),
            },
            Err(status) => Err(status),
        })
    }

    pub(super) async fn subscription_without_certificate_is_rejected(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let refused = hello(ns, "client").await?;
        anyhow::ensure!(
            refused
                .as_ref()
                .is_err_and(|status| status.code() == Code::Unauthenticated),
            "{refused:?}"
        );
        Ok(())
    }
}

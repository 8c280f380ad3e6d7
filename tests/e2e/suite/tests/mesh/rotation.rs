//! Certificates and the root replaced under traffic: no request fails, and no pod restarts.

cluster_tests! {
    run_alone_long Meshed root_rotation_fails_no_request;
    run_alone_long Meshed certificate_renewal_fails_no_request;
}

mod cases {
    use std::time::Duration;

    use anyhow::Context;
    use futures::future::join_all;
    use kube::api::{Patch, PatchParams};
    use rcgen::{ExtendedKeyUsagePurpose, Issuer, KeyPair};
    use rustls::pki_types::CertificateDer;
    use serde_json::{Value, json};
    use tokio::time::Instant;
    use weft_e2e::host::in_url;
    use weft_e2e::{
        TestNamespace, control_plane, eventually, eventually_within, full_or, identity, objects,
        tls_client,
    };

    const CONTROLLER: &str = "weft-controller";
    /// The time limit for a rotation in these tests.
    const ROTATION: Duration = Duration::from_secs(180);
    /// How long a certificate of a minute is in use.
    const RENEWAL: Duration = Duration::from_secs(42);
    /// How long traffic continues after the change.
    const AFTERWARDS: Duration = Duration::from_secs(5);

    /// Deploys the shop with a TCPRoute on `reviews-v1`, so that every connection to it has a TLS
    /// handshake of its own between proxies.
    async fn shop(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.deploy_shop(&["v1"]).await?;
        let rules = json!([{"backendRefs": [objects::to("v1", 1)]}]);
        let route = objects::route("TCPRoute", "handshakes", "reviews-v1", 80, rules);
        ns.accepted_route(route).await
    }

    /// Sends requests of several kinds while `changes` run, in a soak run for five minutes at
    /// least. Fails if a request fails, or if the traffic ends early.
    async fn under_traffic(
        ns: &TestNamespace,
        changes: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let url = "http://reviews/reviews/1";
        let kinds: [(&str, &str, &[&str]); 4] = [
            ("200", url, &["50", "--method", "POST", "--body", "2000"]),
            ("200", "http://reviews-v1/reviews/1", &["20", "--fresh"]),
            ("200", url, &["30", "--http2"]),
            ("OK", "http://reviews:9000", &["20", "--grpc", "watch"]),
        ];
        let begun = Instant::now();
        let mut loads = Vec::new();
        for (code, url, arguments) in kinds {
            let common = ["weft-shop", "load", "--until-stdin", "--url", url];
            let bounds = ["-n", "1000000", "-c", "8", "--keep", "0", "--rate"];
            let command = [&common[..], &bounds, arguments].concat();
            loads.push((code, ns.begin_load("client", &command).await?));
        }
        let started = Instant::now();
        let changed = changes.await;
        if changed.is_ok() {
            tokio::time::sleep_until(begun + full_or(Duration::from_secs(300), AFTERWARDS)).await;
            // Requests that begin after the last change.
            tokio::time::sleep(AFTERWARDS).await;
        }
        let seconds = started.elapsed().as_secs();
        let ended = loads.into_iter().map(|(code, load)| async move {
            let summary = load.end().await?;
            summary.all(code)?;
            anyhow::ensure!(
                summary.sent() >= seconds * 5,
                "the traffic ended early, within {seconds} s: {summary}"
            );
            Ok(())
        });
        let ended: anyhow::Result<()> = join_all(ended).await.into_iter().collect();
        changed.and(ended)
    }

    async fn root_secret(ns: &TestNamespace) -> anyhow::Result<Value> {
        control_plane::system(&ns.client)
            .get("v1", "Secret", "weft-ca")
            .await
    }

    fn annotation<'a>(secret: &'a Value, name: &str) -> &'a str {
        secret["metadata"]["annotations"][name]
            .as_str()
            .unwrap_or_default()
    }

    /// Returns a key of the Secret as text.
    fn text(secret: &Value, key: &str) -> anyhow::Result<String> {
        use base64::prelude::{BASE64_STANDARD, Engine};
        let encoded = secret["data"][key].as_str();
        let bytes = BASE64_STANDARD.decode(encoded.with_context(|| format!("no {key}"))?)?;
        Ok(String::from_utf8(bytes)?)
    }

    /// Requests a rotation like `kubectl annotate --overwrite`.
    async fn request_rotation(ns: &TestNamespace, request: &str) -> anyhow::Result<()> {
        let patch = json!({"metadata": {"annotations": {"weft.dev/rotate-root": request}}});
        let secrets = control_plane::system(&ns.client).api("v1", "Secret");
        let parameters = PatchParams::default();
        secrets
            .patch("weft-ca", &parameters, &Patch::Merge(&patch))
            .await?;
        Ok(())
    }

    async fn wait_for_phase(ns: &TestNamespace, phase: &str) -> anyhow::Result<()> {
        eventually_within(
            ROTATION,
            &format!("the rotation to be {phase}"),
            async || {
                let secret = root_secret(ns).await?;
                let now = annotation(&secret, "weft.dev/rotation");
                anyhow::ensure!(now.starts_with(phase), "the phase is {now:?}");
                Ok(())
            },
        )
        .await
    }

    /// Returns a client certificate signed by the root in this Secret.
    fn signed_by(
        secret: &Value,
        ns: &TestNamespace,
    ) -> anyhow::Result<tls_client::ClientCertificate> {
        let root = text(secret, "tls.crt")?;
        let issuer =
            Issuer::from_ca_cert_pem(&root, KeyPair::from_pem(&text(secret, "tls.key")?)?)?;
        let mut parameters = identity::parameters(&identity::spiffe(&ns.namespace, "client"))?;
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let leaf = parameters.signed_by(&key, &issuer)?;
        let key = key.serialize_der().try_into().map_err(anyhow::Error::msg)?;
        Ok((vec![leaf.der().clone()], key))
    }

    /// Connects to a proxy with this certificate; returns whether it serves, and its own
    /// certificate.
    async fn connect_with(
        ns: &TestNamespace,
        shown: tls_client::ClientCertificate,
    ) -> anyhow::Result<(bool, CertificateDer<'static>)> {
        let address = format!("{}:8080", in_url(&ns.pod_ip("reviews-v1").await?));
        let mut stream = tls_client::connect(&address, Some("weft/h2"), Some(shown)).await?;
        let server = stream.get_ref().1.peer_certificates();
        let server = server
            .and_then(<[_]>::first)
            .context("the proxy presented no certificate")?;
        let server = server.clone().into_owned();
        let received = tls_client::exchange_http2_prefaces(&mut stream)
            .await
            .unwrap_or_default();
        Ok((!received.is_empty(), server))
    }

    /// Returns true if the root in this Secret signed the certificate.
    fn is_signed_by(certificate: &CertificateDer<'_>, secret: &Value) -> anyhow::Result<bool> {
        let mut roots = rustls::RootCertStore::empty();
        let pem = text(secret, "tls.crt")?;
        for root in rustls::pki_types::pem::PemObject::pem_slice_iter(pem.as_bytes()) {
            roots.add(root?)?;
        }
        let verifier = rustls::server::WebPkiClientVerifier::builder(roots.into()).build()?;
        let now = rustls::pki_types::UnixTime::now();
        Ok(verifier.verify_client_cert(certificate, &[], now).is_ok())
    }

    pub(super) async fn root_rotation_fails_no_request(ns: &TestNamespace) -> anyhow::Result<()> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        shop(ns).await?;
        let quick = [("WEFT_ROTATION_SETTLE", "10")];
        control_plane::with_environment(&ns.client, CONTROLLER, &quick, async || {
            let before = root_secret(ns).await?;
            let (served, server) = connect_with(ns, signed_by(&before, ns)?).await?;
            anyhow::ensure!(
                served && is_signed_by(&server, &before)?,
                "the proxy should use the old root before the rotation"
            );
            let request = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)?
                .as_millis()
                .to_string();
            let rotation = async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                request_rotation(ns, &request).await?;
                wait_for_phase(ns, "distributing, ").await?;
                // A second request is refused, and the next leader continues the rotation.
                request_rotation(ns, &format!("{request}-again")).await?;
                eventually("the second request to be refused", async || {
                    let secret = root_secret(ns).await?;
                    let refused = annotation(&secret, "weft.dev/rotation-refused");
                    anyhow::ensure!(refused.contains("under way (distributing)"), "{refused:?}");
                    Ok(())
                })
                .await?;
                control_plane::kill(&ns.client, CONTROLLER).await?;
                wait_for_phase(ns, "renewing").await?;
                wait_for_phase(ns, "complete").await
            };
            under_traffic(ns, rotation).await?;

            let after = root_secret(ns).await?;
            anyhow::ensure!(
                text(&before, "tls.crt")? != text(&after, "tls.crt")?,
                "the root should have changed"
            );
            let (served, server) = connect_with(ns, signed_by(&after, ns)?).await?;
            anyhow::ensure!(
                served && is_signed_by(&server, &after)?,
                "the proxy should use the new root"
            );
            let (served, _) = connect_with(ns, signed_by(&before, ns)?).await?;
            anyhow::ensure!(!served, "a certificate of the old root should be rejected");
            let roots = identity::roots(ns).await?;
            anyhow::ensure!(!roots.contains(text(&before, "tls.crt")?.trim()), "{roots}");
            // New pods get a certificate of the new root.
            ns.apply(objects::client("second")).await?;
            ns.wait_until_ready("second").await?;
            ns.load("second", "http://reviews/reviews/1", &["-n", "20"])
                .await?
                .all("200")?;
            check_no_restarts(ns).await
        })
        .await
    }

    async fn check_no_restarts(ns: &TestNamespace) -> anyhow::Result<()> {
        for pod in ["client", "reviews-v1"] {
            let restarts = ns.restarts(pod).await?;
            anyhow::ensure!(restarts == 0, "{pod} was restarted {restarts} times");
        }
        Ok(())
    }

    /// Returns the failed renewals of the client and of the server. The first certificate may need
    /// several attempts right after a restart of the controller.
    async fn failed_renewals(ns: &TestNamespace) -> anyhow::Result<[f64; 2]> {
        let failed = "weft_certificate_failures_total";
        Ok([
            ns.metric("client", failed, &[]).await?,
            ns.metric("reviews-v1", failed, &[]).await?,
        ])
    }

    pub(super) async fn certificate_renewal_fails_no_request(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let short = [("WEFT_CERTIFICATE_LIFETIME", "60")];
        control_plane::with_environment(&ns.client, CONTROLLER, &short, async || {
            shop(ns).await?;
            let before = failed_renewals(ns).await?;
            // The first one, and renewals every 42 s.
            let renewals = full_or(7_u32, 2);
            let least = f64::from(renewals) + 1.0;
            let renewed = async {
                let limit = RENEWAL * (renewals + 1);
                eventually_within(limit, "renewals of both pods", async || {
                    for pod in ["client", "reviews-v1"] {
                        let renewals = ns
                            .metric(pod, "weft_certificate_renewals_total", &[])
                            .await?;
                        anyhow::ensure!(renewals >= least, "{pod}: {renewals} certificates");
                    }
                    Ok(())
                })
                .await
            };
            under_traffic(ns, renewed).await?;
            let after = failed_renewals(ns).await?;
            anyhow::ensure!(
                before == after,
                "renewals failed: {before:?} before, {after:?} after"
            );
            check_no_restarts(ns).await
        })
        .await
    }
}

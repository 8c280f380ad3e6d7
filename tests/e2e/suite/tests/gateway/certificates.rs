//! Certificates of listeners: replaced, of several key types, invalid, and TLS passthrough, which
//! needs none.

cluster_tests! {
    // Asserts a limit of one second, which other tests on the machine would disturb.
    run_alone Unmeshed replaced_certificate_is_served_within_one_second;
    run Unmeshed deleted_and_recreated_secret_fails_no_handshake;
    run Unmeshed rsa_and_ecdsa_certificates_are_selected_per_client;
    run Unmeshed invalid_secret_disables_only_its_listener;
    run Unmeshed tls_passthrough_and_termination_share_a_port;
}

mod cases {
    use std::time::Duration;

    use anyhow::Context;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use serde_json::{Value, json};
    use tokio::time::Instant;
    use weft_e2e::gateways::{
        gateway, https, listener_conditions, parameters, route, tls_secret, with_parameters,
    };
    use weft_e2e::host::{in_url, kubectl, run};
    use weft_e2e::https_client::{HttpsClient, SelfSigned, failures};
    use weft_e2e::objects::{self, to};
    use weft_e2e::{TestNamespace, eventually};

    fn secret(name: &str, pair: &SelfSigned) -> Value {
        tls_secret(name, &pair.certificate, &pair.key)
    }

    /// Visits per second while certificates are replaced.
    const RATE: u32 = 200;
    /// The limit from the API server's response to the write of a Secret to the start of the last
    /// handshake that gets the old certificate.
    const MAX_DELAY: Duration = Duration::from_secs(1);

    pub(super) async fn replaced_certificate_is_served_within_one_second(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let host = "shop.example.com";
        let pairs: Vec<SelfSigned> = (0..6)
            .map(|_| SelfSigned::new(&[host]))
            .collect::<anyhow::Result<_>>()?;
        ns.apply(secret("cert", &pairs[0])).await?;
        ns.apply(parameters("edge", json!({"replicas": "2"})))
            .await?;
        let edge = gateway("edge", json!([https("https", host, "cert")]));
        let address = ns.deploy_gateway(with_parameters(edge, "edge")).await?;
        ns.gateway_pods("edge", 2).await?;
        let trusted: Vec<&SelfSigned> = pairs.iter().collect();
        let client = HttpsClient::new(&address, host, "/reviews/1", &trusted)?;
        eventually("the first response", async || {
            client.request().await.map(drop)
        })
        .await?;
        let replaced = async {
            let mut times = Vec::new();
            for pair in &pairs[1..] {
                tokio::time::sleep(MAX_DELAY * 2).await;
                ns.apply(secret("cert", pair)).await?;
                times.push(Instant::now());
            }
            tokio::time::sleep(MAX_DELAY * 2).await;
            Ok(times)
        };
        let (times, attempts) = client.requests_during(RATE, replaced).await?;
        let failed: Vec<String> = failures(&attempts).collect();
        anyhow::ensure!(
            failed.is_empty(),
            "{} of {} attempts failed: {failed:?}",
            failed.len(),
            attempts.len()
        );
        let due = RATE * 2 * u32::try_from(times.len())?;
        anyhow::ensure!(
            attempts.len() as u64 >= u64::from(due) * 9 / 10,
            "{} attempts of {due}: this machine is too slow for the test",
            attempts.len()
        );
        for (place, at) in times.iter().enumerate() {
            let before: Vec<_> = pairs[..=place]
                .iter()
                .map(SelfSigned::der)
                .collect::<anyhow::Result<_>>()?;
            let served = attempts
                .iter()
                .filter_map(|attempt| attempt.result.as_ref().ok());
            let after = served.filter_map(|served| {
                Some((served.handshake_start.checked_duration_since(*at)?, served))
            });
            let soon = after
                .clone()
                .filter(|(after, _)| *after < MAX_DELAY)
                .count();
            let outdated = after.filter(|(_, served)| before.contains(&served.certificate));
            let last = outdated.map(|(after, _)| after).max().unwrap_or_default();
            eprintln!(
                "the old certificate was last presented after {last:?}, of {soon} in {MAX_DELAY:?}"
            );
            anyhow::ensure!(
                last <= MAX_DELAY,
                "an old certificate was presented after {last:?}"
            );
            // Enough handshakes to observe the last one with the old certificate; the rate is
            // checked over the whole time.
            anyhow::ensure!(
                soon as u32 * 10 >= RATE,
                "only {soon} attempts in {MAX_DELAY:?}: this machine is too slow for the test"
            );
        }
        Ok(())
    }

    /// Deletes the Secret like `kubectl replace --force`, but creates it again only after some
    /// seconds.
    pub(super) async fn deleted_and_recreated_secret_fails_no_handshake(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let host = "shop.example.com";
        let pairs = [SelfSigned::new(&[host])?, SelfSigned::new(&[host])?];
        ns.apply(secret("cert", &pairs[0])).await?;
        let edge = gateway("edge", json!([https("https", host, "cert")]));
        let address = ns.deploy_gateway(edge).await?;
        let client = HttpsClient::new(&address, host, "/reviews/1", &[&pairs[0], &pairs[1]])?;
        eventually("the first response", async || {
            client.request().await.map(drop)
        })
        .await?;
        let resolved = async |status: &str, word: &str| {
            eventually("the status of the Secret", async || {
                let gateway = ns.get(objects::GATEWAY, "Gateway", "edge").await?;
                let conditions = listener_conditions(&gateway, "https")?;
                let (is, _, message) = conditions.of("ResolvedRefs")?;
                anyhow::ensure!(is == status && message.contains(word), "{conditions}");
                Ok(())
            })
            .await
        };
        let replaced = async {
            kubectl(&["-n", &ns.namespace, "delete", "secret", "cert"]).await?;
            resolved("False", "was deleted").await?;
            tokio::time::sleep(Duration::from_secs(5)).await;
            ns.apply(secret("cert", &pairs[1])).await?;
            resolved("True", "").await
        };
        let ((), attempts) = client.requests_during(50, replaced).await?;
        let failed: Vec<String> = failures(&attempts).collect();
        anyhow::ensure!(
            failed.is_empty(),
            "{} of {} attempts failed: {failed:?}",
            failed.len(),
            attempts.len()
        );
        Ok(())
    }

    pub(super) async fn rsa_and_ecdsa_certificates_are_selected_per_client(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let host = "shop.example.com";
        let (ecdsa, rsa) = (SelfSigned::new(&[host])?, SelfSigned::rsa(&[host])?);
        ns.apply(secret("ecdsa", &ecdsa)).await?;
        ns.apply(secret("rsa", &rsa)).await?;
        let mut listener = https("https", host, "ecdsa");
        listener["tls"]["certificateRefs"] = json!([{"name": "ecdsa"}, {"name": "rsa"}]);
        let address = ns
            .deploy_gateway(gateway("edge", json!([listener])))
            .await?;
        let file = std::env::temp_dir().join(format!("{}.crt", ns.namespace));
        std::fs::write(&file, format!("{}{}", ecdsa.certificate, rsa.certificate))?;
        let authorities = file.to_string_lossy();
        let connect = format!("{}:443", in_url(&address));
        for (more, shown, why) in [
            (&["-tls1_3", "-sigalgs", "ECDSA+SHA256"][..], &ecdsa, "1.3"),
            (&["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"], &rsa, "1.3"),
            (&["-tls1_2", "-sigalgs", "ECDSA+SHA256"], &ecdsa, "1.2"),
            (&["-tls1_2", "-sigalgs", "RSA-PSS+SHA256"], &rsa, "1.2"),
            (&["-tls1_2", "-sigalgs", "RSA+SHA256"], &rsa, "1.2, PKCS 1"),
            (
                &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
                &rsa,
                "the suite",
            ),
            (
                &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
                &ecdsa,
                "the suite",
            ),
            (&[], &ecdsa, "the first suitable one"),
        ] {
            eventually(&format!("{why}: {more:?}"), async || {
                let common = ["5", "openssl", "s_client", "-connect", &connect];
                let names = ["-servername", host, "-CAfile", &authorities];
                let output = run("timeout", &[&common[..], &names, more].concat()).await?;
                let seen = CertificateDer::from_pem_slice(output.out.as_bytes());
                let seen = seen.with_context(|| format!("{output:?}"))?;
                anyhow::ensure!(
                    seen == shown.der()?,
                    "the other certificate was presented: {output:?}"
                );
                let good = output.out.contains("Verify return code: 0 (ok)");
                anyhow::ensure!(good, "{output:?}");
                Ok(())
            })
            .await?;
        }
        std::fs::remove_file(file)?;
        Ok(())
    }

    pub(super) async fn invalid_secret_disables_only_its_listener(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let (good, bad) = ("good.example.com", "bad.example.com");
        let (of_good, of_bad) = (SelfSigned::new(&[good])?, SelfSigned::new(&[bad])?);
        ns.apply(secret("good", &of_good)).await?;
        ns.apply(secret("bad", &of_bad)).await?;
        let listeners = json!([https("good", good, "good"), https("bad", bad, "bad")]);
        let address = ns.deploy_gateway(gateway("edge", listeners)).await?;
        let trusted = [&of_good, &of_bad];
        let (good, bad) = (
            HttpsClient::new(&address, good, "/reviews/1", &trusted)?,
            HttpsClient::new(&address, bad, "/reviews/1", &trusted)?,
        );
        for client in [&good, &bad] {
            eventually("both listeners to serve", async || {
                client.request().await.map(drop)
            })
            .await?;
        }
        let broken = tls_secret("bad", "not a certificate", &of_bad.key);
        let broke = async {
            ns.apply(broken).await?;
            eventually("the listener to be invalid", async || {
                let gateway = ns.get(objects::GATEWAY, "Gateway", "edge").await?;
                let conditions = listener_conditions(&gateway, "bad")?;
                conditions.is_false(
                    "ResolvedRefs",
                    "InvalidCertificateRef",
                    &["Secret", "bad", "tls.crt"],
                )?;
                conditions.is_false("Programmed", "Invalid", &["certificate"])?;
                let other = listener_conditions(&gateway, "good")?;
                anyhow::ensure!(other.of("Programmed")?.0 == "True", "{other}");
                Ok(())
            })
            .await?;
            eventually("the listener to be closed", async || {
                anyhow::ensure!(bad.request().await.is_err(), "the listener still serves");
                Ok(())
            })
            .await
        };
        let ((), attempts) = good.requests_during(20, broke).await?;
        let failed: Vec<String> = failures(&attempts).collect();
        anyhow::ensure!(
            failed.is_empty(),
            "attempts to the other listener failed: {failed:?}"
        );
        ns.apply(secret("bad", &of_bad)).await?;
        eventually("the restored listener to serve", async || {
            bad.request().await.map(drop)
        })
        .await
    }

    /// The server behind the TLS passthrough is another Gateway inside the cluster.
    pub(super) async fn tls_passthrough_and_termination_share_a_port(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let (outer, inner) = ("outer.example.com", "inner.example.com");
        let (of_outer, of_inner) = (SelfSigned::new(&[outer])?, SelfSigned::new(&[inner])?);
        ns.apply(secret("outer", &of_outer)).await?;
        ns.apply(secret("inner", &of_inner)).await?;
        ns.apply(parameters("inside", json!({"serviceType": "ClusterIP"})))
            .await?;
        let inside = gateway("inside", json!([https("https", inner, "inner")]));
        ns.gateway(with_parameters(inside, "inside")).await?;
        let rules = json!([{"filters": [
            {"type": "RequestRedirect", "requestRedirect": {"hostname": "seen-inside.example.com"}},
        ]}]);
        ns.gateway_route(route("HTTPRoute", "inside", "inside", "", rules))
            .await?;
        let passed = json!({
            "name": "passed", "protocol": "TLS", "port": 443, "hostname": inner, "tls": {"mode": "Passthrough"},
        });
        ns.deploy_reviews("v1").await?;
        let listeners = json!([https("ended", outer, "outer"), passed]);
        let address = ns.gateway(gateway("edge", listeners)).await?;
        let rules = json!([{"backendRefs": [to("v1", 1)]}]);
        ns.gateway_route(route("HTTPRoute", "reviews", "edge", "ended", rules))
            .await?;
        let rules = json!([{"backendRefs": [{"name": "inside-weft", "port": 443}]}]);
        let mut through = route("TLSRoute", "through", "edge", "passed", rules);
        through["spec"]["hostnames"] = json!([inner]);
        ns.gateway_route(through).await?;
        let ended = HttpsClient::new(&address, outer, "/reviews/1", &[&of_outer])?;
        let passed = HttpsClient::new(&address, inner, "/reviews/1", &[&of_inner])?;
        eventually("both listeners to serve", async || {
            let (ended, passed) = (ended.request().await?, passed.request().await?);
            anyhow::ensure!(ended.status == 200, "{ended:?}");
            anyhow::ensure!(ended.body["version"] == "v1", "{ended:?}");
            anyhow::ensure!(passed.status == 302, "{passed:?}");
            Ok(())
        })
        .await
    }
}

//! Certificates of listeners: replaced, broken, and not needed where TLS is passed through.

mesh_tests! {
    run_busy Out a_certificate_replaced_under_handshakes;
    run Out a_broken_secret_breaks_its_listener_only;
    run Out passthrough_and_termination_on_one_port;
}

mod cases {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tokio::time::Instant;
    use weft_e2e::gateways::{gateway, https, listener_conditions, parameters, route, tls_secret};
    use weft_e2e::objects::{self, to};
    use weft_e2e::visits::{Pair, Visitor, failures};
    use weft_e2e::{Bed, eventually};

    fn secret(name: &str, pair: &Pair) -> Value {
        tls_secret(name, &pair.certificate, &pair.key)
    }

    /// A Gateway `edge` whose listeners serve the reviews; returns its address.
    async fn edge(bed: &Bed, listeners: Value) -> anyhow::Result<String> {
        bed.reviews("v1").await?;
        let address = bed.gateway(gateway("edge", listeners)).await?;
        let rules = json!([{"backendRefs": [to("v1", 1)]}]);
        bed.gateway_route(route("HTTPRoute", "reviews", "edge", "", rules))
            .await?;
        Ok(address)
    }

    /// The new certificate has to be shown a second after the Secret was updated; on a machine that does much else at the
    /// same time, three.
    const TAKEN_UP: Duration = Duration::from_secs(3);

    pub(super) async fn a_certificate_replaced_under_handshakes(bed: &Bed) -> anyhow::Result<()> {
        let host = "shop.example.com";
        let pairs = [
            Pair::new(&[host])?,
            Pair::new(&[host])?,
            Pair::new(&[host])?,
        ];
        bed.apply(secret("cert", &pairs[0])).await?;
        let address = edge(bed, json!([https("https", host, "cert")])).await?;
        let trusted: Vec<&Pair> = pairs.iter().collect();
        let visitor = Visitor::new(&address, host, "/reviews/1", &trusted)?;
        eventually("the first answer", async || visitor.visit().await.map(drop)).await?;
        let replaced = async {
            let mut times = Vec::new();
            for pair in &pairs[1..] {
                tokio::time::sleep(Duration::from_secs(3)).await;
                bed.apply(secret("cert", pair)).await?;
                times.push(Instant::now());
            }
            tokio::time::sleep(TAKEN_UP + Duration::from_secs(1)).await;
            Ok(times)
        };
        let (times, visits) = visitor.visits_during(100, replaced).await?;
        let failed: Vec<String> = failures(&visits).collect();
        anyhow::ensure!(
            failed.is_empty(),
            "{} of {} failed: {failed:?}",
            failed.len(),
            visits.len()
        );
        anyhow::ensure!(visits.len() > 500, "only {} visits", visits.len());
        for (at, pair) in times.iter().zip(&pairs[1..]) {
            let der = pair.der()?;
            let is_new = |of: &anyhow::Result<weft_e2e::visits::Served>| {
                of.as_ref().is_ok_and(|served| served.certificate == der)
            };
            let first = visits.iter().find(|visit| is_new(&visit.result));
            let first = first.map(|visit| visit.begun.saturating_duration_since(*at));
            eprintln!("the new certificate was shown after {first:?}");
            anyhow::ensure!(
                first.is_some_and(|after| after <= TAKEN_UP),
                "the new certificate was shown after {first:?}"
            );
        }
        let last = pairs[2].der()?;
        let shown = visits.last().and_then(|visit| visit.result.as_ref().ok());
        anyhow::ensure!(
            shown.is_some_and(|served| served.certificate == last),
            "the last visit was shown an old certificate"
        );
        Ok(())
    }

    pub(super) async fn a_broken_secret_breaks_its_listener_only(bed: &Bed) -> anyhow::Result<()> {
        let (good, bad) = ("good.example.com", "bad.example.com");
        let (of_good, of_bad) = (Pair::new(&[good])?, Pair::new(&[bad])?);
        bed.apply(secret("good", &of_good)).await?;
        bed.apply(secret("bad", &of_bad)).await?;
        let listeners = json!([https("good", good, "good"), https("bad", bad, "bad")]);
        let address = edge(bed, listeners).await?;
        let trusted = [&of_good, &of_bad];
        let (good, bad) = (
            Visitor::new(&address, good, "/reviews/1", &trusted)?,
            Visitor::new(&address, bad, "/reviews/1", &trusted)?,
        );
        for visitor in [&good, &bad] {
            eventually("both listeners to serve", async || {
                visitor.visit().await.map(drop)
            })
            .await?;
        }
        let broken = tls_secret("bad", "not a certificate", &of_bad.key);
        let broke = async {
            bed.apply(broken).await?;
            eventually("the listener to be refused", async || {
                let gateway = bed.get(objects::GATEWAY, "Gateway", "edge").await?;
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
            eventually("the listener to be shut", async || {
                anyhow::ensure!(bad.visit().await.is_err(), "it is served");
                Ok(())
            })
            .await
        };
        let ((), visits) = good.visits_during(20, broke).await?;
        let failed: Vec<String> = failures(&visits).collect();
        anyhow::ensure!(failed.is_empty(), "the other listener: {failed:?}");
        bed.apply(secret("bad", &of_bad)).await?;
        eventually("the mended listener", async || bad.visit().await.map(drop)).await
    }

    /// The server that ends the TLS which is passed through is another Gateway, one inside the cluster.
    pub(super) async fn passthrough_and_termination_on_one_port(bed: &Bed) -> anyhow::Result<()> {
        let (outer, inner) = ("outer.example.com", "inner.example.com");
        let (of_outer, of_inner) = (Pair::new(&[outer])?, Pair::new(&[inner])?);
        bed.apply(secret("outer", &of_outer)).await?;
        bed.apply(secret("inner", &of_inner)).await?;
        bed.apply(parameters("inside", json!({"serviceType": "ClusterIP"})))
            .await?;
        let mut inside = gateway("inside", json!([https("https", inner, "inner")]));
        inside["spec"]["infrastructure"] =
            json!({"parametersRef": {"group": "", "kind": "ConfigMap", "name": "inside"}});
        bed.gateway(inside).await?;
        let rules = json!([{"filters": [
            {"type": "RequestRedirect", "requestRedirect": {"hostname": "seen-inside.example.com"}},
        ]}]);
        bed.gateway_route(route("HTTPRoute", "inside", "inside", "", rules))
            .await?;
        let passed = json!({
            "name": "passed", "protocol": "TLS", "port": 443, "hostname": inner, "tls": {"mode": "Passthrough"},
        });
        bed.reviews("v1").await?;
        let listeners = json!([https("ended", outer, "outer"), passed]);
        let address = bed.gateway(gateway("edge", listeners)).await?;
        let rules = json!([{"backendRefs": [to("v1", 1)]}]);
        bed.gateway_route(route("HTTPRoute", "reviews", "edge", "ended", rules))
            .await?;
        let rules = json!([{"backendRefs": [{"name": "inside-weft", "port": 443}]}]);
        let mut through = route("TLSRoute", "through", "edge", "passed", rules);
        through["spec"]["hostnames"] = json!([inner]);
        bed.gateway_route(through).await?;
        let ended = Visitor::new(&address, outer, "/reviews/1", &[&of_outer])?;
        let passed = Visitor::new(&address, inner, "/reviews/1", &[&of_inner])?;
        eventually("both to be served", async || {
            let (ended, passed) = (ended.visit().await?, passed.visit().await?);
            anyhow::ensure!(ended.status == 200, "{ended:?}");
            anyhow::ensure!(ended.body["version"] == "v1", "{ended:?}");
            anyhow::ensure!(passed.status == 302, "{passed:?}");
            Ok(())
        })
        .await
    }
}

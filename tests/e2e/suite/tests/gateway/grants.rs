//! ReferenceGrants that are revoked: how soon traffic follows.

cluster_tests! {
    // Asserts a limit of one second, which other tests on the machine would disturb.
    run_alone Unmeshed revoked_grants_take_effect_within_one_second;
}

mod cases {
    use std::time::Duration;

    use kube::api::DeleteParams;
    use serde_json::{Value, json};
    use tokio::time::Instant;
    use weft_e2e::gateways::{gateway, https, route, tls_secret};
    use weft_e2e::https_client::{Attempt, HttpsClient, SelfSigned, failures};
    use weft_e2e::objects;
    use weft_e2e::{TestNamespace, eventually};

    const HOST: &str = "shop.example.com";
    const GRANTS: &str = "gateway.networking.k8s.io/v1beta1";
    /// Connections per second while a grant is revoked.
    const RATE: u32 = 100;
    /// The limit from the API server's response to the deletion of a grant to the start of the last
    /// connection that is served.
    const MAX_DELAY: Duration = Duration::from_secs(1);

    /// Returns a grant to objects of this kind in the test's own namespace.
    fn grant(name: &str, from: (&str, &Value), to: &str) -> Value {
        let (kind, namespace) = from;
        json!({
            "apiVersion": GRANTS, "kind": "ReferenceGrant", "metadata": {"name": name},
            "spec": {
                "from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": namespace}],
                "to": [{"group": "", "kind": to}],
            },
        })
    }

    /// Deletes the grant under traffic; fails unless everything is served before, and nothing that
    /// starts later than `MAX_DELAY` after.
    async fn check_revocation(
        client: &HttpsClient,
        owner: &TestNamespace,
        name: &str,
    ) -> anyhow::Result<()> {
        eventually("the first response", async || {
            let status = client.request().await?.status;
            anyhow::ensure!(status == 200, "{status}");
            Ok(())
        })
        .await?;
        let revoked = async {
            tokio::time::sleep(MAX_DELAY * 2).await;
            let deletion = Instant::now();
            let grants = owner.api(GRANTS, "ReferenceGrant");
            grants.delete(name, &DeleteParams::default()).await?;
            let deleted = Instant::now();
            tokio::time::sleep(MAX_DELAY * 3).await;
            Ok((deletion, deleted))
        };
        let ((deletion, deleted), attempts) = client.requests_during(RATE, revoked).await?;
        let served = |attempt: &&Attempt| {
            let response = attempt.result.as_ref();
            response.is_ok_and(|response| response.status == 200)
        };
        // One that started shortly before may get its response after.
        let before = deletion - MAX_DELAY;
        let before = attempts.iter().filter(|attempt| attempt.started < before);
        anyhow::ensure!(
            before.clone().count() > 0 && before.clone().all(|attempt| served(&attempt)),
            "with the grant: {:?}",
            failures(&attempts).next()
        );
        let after = |attempt: &Attempt| attempt.started.checked_duration_since(deleted);
        let last = attempts.iter().filter(served).filter_map(after).max();
        let last = last.unwrap_or_default();
        eprintln!("{name}: the last connection that was served started after {last:?}");
        anyhow::ensure!(last <= MAX_DELAY, "{name}: served after {last:?}");
        let late = attempts.iter().filter_map(after);
        let late = late.filter(|after| *after > MAX_DELAY).count();
        anyhow::ensure!(
            late as u32 >= RATE,
            "{name}: only {late} attempts after the limit: this machine is too slow for the test"
        );
        Ok(())
    }

    pub(super) async fn revoked_grants_take_effect_within_one_second(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let owner = ns.in_namespace(&format!("{}-b", ns.namespace));
        let outcome = check_grants(ns, &owner).await;
        let namespaces = owner.api("v1", "Namespace");
        let removed = namespaces
            .delete(&owner.namespace, &DeleteParams::default())
            .await;
        outcome?;
        removed?;
        Ok(())
    }

    /// `owner` has the certificate of the Gateway's listener, and the backend of its route.
    async fn check_grants(ns: &TestNamespace, owner: &TestNamespace) -> anyhow::Result<()> {
        let own = ns.get("v1", "Namespace", &ns.namespace).await?;
        let run = own["metadata"]["labels"]["weft.dev/e2e"].as_str();
        let namespace = objects::namespace(&owner.namespace, run.unwrap_or_default(), false);
        owner.apply(namespace).await?;
        owner.apply(objects::account("reviews")).await?;
        owner.deploy_reviews("v1").await?;
        let pair = SelfSigned::new(&[HOST])?;
        let secret = tls_secret("cert", &pair.certificate, &pair.key);
        owner.apply(secret).await?;
        let from = Value::from(&*ns.namespace);
        let [certificates, backends] = [
            grant("certificates", ("Gateway", &from), "Secret"),
            grant("backends", ("HTTPRoute", &from), "Service"),
        ];
        owner.apply(certificates).await?;
        owner.apply(backends.clone()).await?;

        let mut listener = https("https", HOST, "cert");
        listener["tls"]["certificateRefs"][0]["namespace"] = (*owner.namespace).into();
        let address = ns.gateway(gateway("edge", json!([listener]))).await?;
        let backend = json!({"name": "reviews-v1", "namespace": owner.namespace, "port": 80});
        let rules = json!([{"backendRefs": [backend]}]);
        let elsewhere = route("HTTPRoute", "elsewhere", "edge", "", rules);
        ns.gateway_route(elsewhere).await?;
        let client = HttpsClient::new(&address, HOST, "/reviews/1", &[&pair])?;

        check_revocation(&client, owner, "backends").await?;
        // Granted again, it is served again: what follows is due to the other grant alone.
        owner.apply(backends).await?;
        check_revocation(&client, owner, "certificates").await
    }
}

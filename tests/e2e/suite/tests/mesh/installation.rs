//! Weft upgraded, rolled back, uninstalled and reinstalled under about 400 requests a second, half
//! of them between pods of the mesh and half through a gateway: no request fails. And the release
//! with other values.

mod probe_sources;

cluster_tests! {
    run_installation Meshed upgrade_fails_no_request;
    run_installation Meshed rollback_fails_no_request;
    run_installation Meshed uninstall_fails_no_request;
    run_installation Meshed reinstall_fails_no_request;
    run_installation Meshed webhook_answers_only_clients_with_the_certificate_of_api_servers;
}

mod cases {
    use std::time::Duration;

    use anyhow::Context;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use serde_json::{Value, json};
    use weft_e2e::gateways::{gateway, listener, route};
    use weft_e2e::objects::{self, to};
    use weft_e2e::release::{self, NEXT, Release, proxy_image};
    use weft_e2e::tls_client::{self, ClientCertificate};
    use weft_e2e::{TestNamespace, control_plane, eventually, fault_injection, host};

    /// Percentage of the usual rate: two pods send at once, and many pods start meanwhile.
    const SHARE: u32 = 40;

    /// Version v1 of the reviews as a Deployment, so that its pods can be restarted.
    fn reviews_v1_deployment() -> Value {
        let mut pod = objects::reviews("v1");
        pod["spec"]["terminationGracePeriodSeconds"] = 30.into();
        objects::deployment(&pod, 1)
    }

    /// A client outside the mesh.
    fn client() -> Value {
        let labels = json!({"app": "client", "weft.dev/inject": "disabled"});
        objects::pod("client", "client", labels, &["idle"])
    }

    /// Deploys the reviews of both versions, v1 as a Deployment, `client` in the mesh, and
    /// `client` in front of the Gateway `edge`.
    async fn deploy(ns: &TestNamespace) -> anyhow::Result<()> {
        let listeners = json!([listener("http", "HTTP", 80), listener("grpc", "HTTP", 9000)]);
        ns.apply(gateway("edge", listeners)).await?;
        ns.apply(objects::service("reviews", json!({"app": "reviews"})))
            .await?;
        let v1 = json!({"app": "reviews", "version": "v1"});
        ns.apply(objects::service("reviews-v1", v1)).await?;
        for pod in [objects::client("client"), client(), reviews_v1_deployment()] {
            ns.apply(pod).await?;
        }
        ns.deploy_reviews("v2").await?;
        ns.wait_until_rolled_out("reviews-v1").await?;
        ns.wait_until_ready("client").await?;
        ns.wait_until_ready("client").await?;
        ns.wait_until_programmed("edge").await?;
        let rules = json!([{"backendRefs": [{"name": "reviews", "port": 9000}]}]);
        ns.gateway_route(route("GRPCRoute", "reviews", "edge", "grpc", rules))
            .await?;
        route_all_to(ns, "v1").await
    }

    /// Routes the mesh and the gateway to this version, and waits until the proxies of the client
    /// and of the gateway apply it.
    async fn route_all_to(ns: &TestNamespace, version: &str) -> anyhow::Result<()> {
        let rules = json!([{"backendRefs": [to(version, 1)]}]);
        ns.accepted_route(objects::http_route("reviews-of-the-mesh", rules.clone()))
            .await?;
        ns.gateway_route(route("HTTPRoute", "reviews", "edge", "http", rules))
            .await?;
        for (pod, service) in [("client", "reviews"), ("client", "edge-weft")] {
            let url = format!("http://{service}/reviews/1");
            eventually(
                &format!("requests of {pod} to reach {version}"),
                async || {
                    let summary = ns.load(pod, &url, &["-n", "20"]).await?;
                    summary.all_from(version).map(drop)
                },
            )
            .await?;
        }
        Ok(())
    }

    /// Runs the changes under traffic within the mesh and through the gateway; fails if a request
    /// fails.
    async fn under_all_traffic<T>(
        ns: &TestNamespace,
        changes: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        // Boxed, because the nested futures would overflow a test thread's stack.
        let changes = Box::pin(changes);
        let changes = ns.under_share_of_traffic(SHARE, "client", "edge-weft", changes);
        let changes = Box::pin(changes);
        let changes = ns.under_share_of_traffic(SHARE, "client", "reviews", changes);
        let ((made, through_the_gateway), within_the_mesh) = Box::pin(changes).await?;
        within_the_mesh
            .as_expected()
            .context("traffic within the mesh")?;
        through_the_gateway
            .as_expected()
            .context("traffic through the gateway")?;
        Ok(made)
    }

    async fn proxy_image_of(ns: &TestNamespace, pod: &str) -> anyhow::Result<String> {
        let pod = ns.get("v1", "Pod", pod).await?;
        proxy_image(&pod).with_context(|| format!("the pod has no proxy: {}", pod["spec"]))
    }

    /// Fails unless there are pods, each with a proxy of this version.
    fn check_proxy_version(pods: &[Value], version: &str) -> anyhow::Result<()> {
        let images: Vec<_> = pods.iter().map(proxy_image).collect();
        let wanted = format!("weft/proxy:{version}");
        let all = images
            .iter()
            .all(|image| image.as_ref().is_some_and(|image| image.ends_with(&wanted)));
        anyhow::ensure!(
            !pods.is_empty() && all,
            "proxies should have version {version}: {images:?}"
        );
        Ok(())
    }

    /// Changes the version of the control plane with `bring`. Existing pods must keep their proxies
    /// and still apply new routes; restarted pods must get the new proxy.
    async fn check_version_change(
        ns: &TestNamespace,
        (from, to): (&str, &str),
        bring: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let changes = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (whole, created) = ns
                .creations_during(async {
                    bring.await?;
                    ns.control_plane_of(to).await
                })
                .await?;
            created.all()?;
            created.all_injected()?;
            eventually("the rollout of the gateway's pods", async || {
                check_proxy_version(&ns.gateway_pods("edge", 1).await?, to)
            })
            .await?;
            // The proxies of v1 now have the new version, those of v2 the old one.
            ns.restart_deployment("reviews-v1").await?;
            route_all_to(ns, "v2").await?;
            route_all_to(ns, "v1").await?;
            anyhow::Ok(whole)
        };
        under_all_traffic(ns, changes).await?;
        let rolled = ns.list("v1", "Pod", "app=reviews,version=v1").await?;
        check_proxy_version(&rolled, to)?;
        for pod in ["client", "reviews-v2"] {
            let image = proxy_image_of(ns, pod).await?;
            anyhow::ensure!(
                image.ends_with(from),
                "{pod} should keep its proxy: {image}"
            );
        }
        check_no_restarts(ns).await
    }

    async fn check_no_restarts(ns: &TestNamespace) -> anyhow::Result<()> {
        for pod in ns.list("v1", "Pod", "").await? {
            let name = &pod["metadata"]["name"];
            anyhow::ensure!(objects::restarts(&pod) == 0, "{name} was restarted");
        }
        Ok(())
    }

    pub(super) async fn upgrade_fails_no_request(ns: &TestNamespace) -> anyhow::Result<()> {
        let found = Release::found().await?;
        deploy(ns).await?;
        check_version_change(ns, (&found.version, NEXT), found.upgrade()).await
    }

    pub(super) async fn rollback_fails_no_request(ns: &TestNamespace) -> anyhow::Result<()> {
        let found = Release::found().await?;
        found.upgrade().await?;
        ns.control_plane_of(NEXT).await?;
        deploy(ns).await?;
        check_version_change(ns, (NEXT, &found.version), found.roll_back()).await
    }

    /// Returns the root certificate and its key.
    async fn root(ns: &TestNamespace) -> anyhow::Result<Value> {
        let system = control_plane::system(&ns.client);
        let mut secret = system.get("v1", "Secret", "weft-ca").await?;
        Ok(secret["data"].take())
    }

    /// Returns the UIDs of pods with a proxy.
    async fn pods_with_proxy(ns: &TestNamespace) -> anyhow::Result<Vec<Value>> {
        let mut pods = ns.list("v1", "Pod", "").await?;
        pods.retain(|pod| proxy_image(pod).is_some());
        let uids = pods
            .into_iter()
            .map(|mut pod| pod["metadata"]["uid"].take());
        Ok(uids.collect())
    }

    /// Waits until every proxy of the namespace reports that its configuration stream is, or is
    /// not, established.
    async fn wait_for_stream(ns: &TestNamespace, wanted: bool) -> anyhow::Result<()> {
        for pod in ns.list("v1", "Pod", "").await? {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            if proxy_image(&pod).is_none() {
                continue;
            }
            let what = format!("weft_config_connected of {name} to be {wanted}");
            eventually(&what, async || {
                let value = ns.metric(name, "weft_config_connected", &[]).await?;
                anyhow::ensure!((value == 1.0) == wanted, "it is {value}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until only the objects remain that the documentation lists.
    async fn wait_until_only_documented_objects_remain() -> anyhow::Result<()> {
        let stay = [
            "secret/weft-ca",
            "secret/weft-injector-tls",
            "lease.coordination.k8s.io/weft-controller",
            "lease.coordination.k8s.io/weft-provisioner",
            "lease.coordination.k8s.io/weft-provisioner-report",
            // Created by Kubernetes in every namespace.
            "configmap/kube-root-ca.crt",
            "serviceaccount/default",
        ];
        eventually("the release to be removed", async || {
            let mut left = release::objects_of_release().await?;
            let there = release::objects_of_namespace().await?;
            left.extend(there.into_iter().filter(|name| {
                !stay.contains(&name.as_str())
                    && !name.starts_with("lease.coordination.k8s.io/proxies.")
                    // The release of the definitions stays.
                    && !name.starts_with("secret/sh.helm.release.v1.weft-crds.")
            }));
            anyhow::ensure!(left.is_empty(), "{left:?} were left");
            Ok(())
        })
        .await
    }

    /// Checks that a new pod is outside the mesh and can call permissive pods.
    async fn check_new_pod_has_no_proxy(ns: &TestNamespace) -> anyhow::Result<()> {
        ns.apply(objects::client("latecomer")).await?;
        let pod = ns.wait_until_ready("latecomer").await?;
        anyhow::ensure!(proxy_image(&pod).is_none(), "the pod has a proxy");
        let load = ns.load("latecomer", "http://reviews/reviews/1", &["-n", "20"]);
        load.await?.all("200").map(drop)
    }

    pub(super) async fn uninstall_fails_no_request(ns: &TestNamespace) -> anyhow::Result<()> {
        let found = Release::found().await?;
        deploy(ns).await?;
        let (root_before, before) = (root(ns).await?, pods_with_proxy(ns).await?);
        let changes = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let ((), created) = ns.creations_during(found.uninstall()).await?;
            created.all()?;
            check_new_pod_has_no_proxy(ns).await?;
            wait_until_only_documented_objects_remain().await?;
            wait_for_stream(ns, false).await
        };
        under_all_traffic(ns, changes).await?;
        anyhow::ensure!(root(ns).await? == root_before, "the root should be kept");
        anyhow::ensure!(
            pods_with_proxy(ns).await? == before,
            "the pods of the mesh and of the gateway should be kept"
        );
        check_no_restarts(ns).await
    }

    pub(super) async fn reinstall_fails_no_request(ns: &TestNamespace) -> anyhow::Result<()> {
        let found = Release::found().await?;
        deploy(ns).await?;
        let (root_before, before) = (root(ns).await?, pods_with_proxy(ns).await?);
        let changes = async {
            found.uninstall().await?;
            wait_for_stream(ns, false).await?;
            found.install().await?;
            wait_for_stream(ns, true).await?;
            route_all_to(ns, "v2").await?;
            anyhow::ensure!(
                root(ns).await? == root_before,
                "the root should be the same"
            );
            anyhow::ensure!(
                pods_with_proxy(ns).await? == before,
                "the pods of the mesh and of the gateway should be the same"
            );
            // Pods that start now join the mesh.
            ns.restart_deployment("reviews-v1").await?;
            let started = ns.list("v1", "Pod", "app=reviews,version=v1").await?;
            check_proxy_version(&started, &found.version)?;
            route_all_to(ns, "v1").await
        };
        under_all_traffic(ns, changes).await?;
        check_no_restarts(ns).await
    }

    /// Returns a certificate of the cluster's authority.
    fn certificate(name: &str) -> anyhow::Result<ClientCertificate> {
        let file = |kind: &str| host::root().join(format!(".cluster/pki/{name}.{kind}"));
        let chain = CertificateDer::pem_file_iter(file("crt"))?.collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_file(file("key"))?))
    }

    /// Returns the status line of the webhook's response to a client with this certificate, or
    /// nothing if the client is refused.
    async fn ask_webhook(certificate: Option<&str>, address: &str) -> anyhow::Result<String> {
        let shown = certificate.map(self::certificate).transpose()?;
        // With TLS 1.2 the handshake fails, with TLS 1.3 what follows.
        let Ok(mut stream) = tls_client::connect(address, None, shown).await else {
            return Ok(String::new());
        };
        let request = b"POST /mutate HTTP/1.1\r\nhost: weft-injector\r\n\
            content-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        let answer = tls_client::exchange(&mut stream, request).await?;
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    }

    pub(super) async fn webhook_answers_only_clients_with_the_certificate_of_api_servers(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        if let Some(reason) = fault_injection::unavailable() {
            println!("{reason}");
            return Ok(());
        }
        let address = control_plane::system(&ns.client)
            .cluster_ip("weft-injector")
            .await?;
        let address = format!("{}:443", host::in_url(&address));
        let before = ask_webhook(None, &address).await?;
        anyhow::ensure!(before.starts_with("HTTP/1.1 400"), "by default: {before:?}");

        let found = Release::found().await?;
        found
            .set(&[
                "injector.clientCA.configMap=kube-root-ca.crt",
                "injector.clientCA.subjectNames={kube-apiserver-webhook}",
            ])
            .await?;
        // Nodes send no connection to a replica of before any longer.
        let replicas = control_plane::pod_names(&ns.client, "weft-injector").await?;
        eventually("only verifying replicas", async || {
            for _ in 0..4 * replicas.len() {
                let answer = ask_webhook(None, &address).await?;
                anyhow::ensure!(answer.is_empty(), "without a certificate: {answer}");
            }
            Ok(())
        })
        .await?;
        for name in ["node1", "front-proxy", "admin"] {
            let answer = ask_webhook(Some(name), &address).await?;
            anyhow::ensure!(
                answer.is_empty(),
                "with the certificate of {name}: {answer}"
            );
        }
        let answer = ask_webhook(Some("kube-apiserver-webhook"), &address).await?;
        anyhow::ensure!(
            answer.starts_with("HTTP/1.1 400"),
            "with the certificate of API servers: {answer:?}"
        );

        // The API server itself: pods are created with a proxy and become ready.
        ns.apply(objects::client("client")).await?;
        let pod = ns.wait_until_ready("client").await?;
        anyhow::ensure!(proxy_image(&pod).is_some(), "the pod has no proxy");
        Ok(())
    }
}

//! Weft upgraded, rolled back, removed and installed again under some 400 requests a second, half of them between pods of
//! the mesh and half through a gateway: not one fails.

mesh_tests! {
    run_installation In upgrade_fails_no_request;
    run_installation In rollback_fails_no_request;
    run_installation In uninstall_fails_no_request;
    run_installation In reinstall_fails_no_request;
}

mod cases {
    use std::time::Duration;

    use anyhow::Context;
    use serde_json::{Value, json};
    use weft_e2e::gateways::{gateway, listener, route};
    use weft_e2e::objects::{self, to};
    use weft_e2e::release::{self, NEXT, Release, proxy_image};
    use weft_e2e::{Bed, control_plane, eventually};

    /// In percent of what other tests send: two pods send at once, and much else is started meanwhile.
    const SHARE: u32 = 40;

    /// Version v1 of the reviews, whose pods can be rolled.
    fn reviews_v1() -> Value {
        let mut pod = objects::reviews("v1");
        pod["spec"]["terminationGracePeriodSeconds"] = 30.into();
        objects::deployment(&pod, 1)
    }

    /// Somebody outside of the mesh.
    fn visitor() -> Value {
        let labels = json!({"app": "visitor", "weft.dev/inject": "disabled"});
        objects::pod("visitor", "client", labels, &["idle"])
    }

    /// The reviews of both versions, v1 as a Deployment, `client` within the mesh, and `visitor` before the Gateway `edge`.
    async fn begin(bed: &Bed) -> anyhow::Result<()> {
        let listeners = json!([listener("http", "HTTP", 80), listener("grpc", "HTTP", 9000)]);
        bed.apply(gateway("edge", listeners)).await?;
        bed.apply(objects::service("reviews", json!({"app": "reviews"})))
            .await?;
        let v1 = json!({"app": "reviews", "version": "v1"});
        bed.apply(objects::service("reviews-v1", v1)).await?;
        for pod in [objects::client("client"), visitor(), reviews_v1()] {
            bed.apply(pod).await?;
        }
        bed.reviews("v2").await?;
        bed.rolled_out("reviews-v1").await?;
        bed.ready("client").await?;
        bed.ready("visitor").await?;
        bed.programmed("edge").await?;
        let rules = json!([{"backendRefs": [{"name": "reviews", "port": 9000}]}]);
        bed.gateway_route(route("GRPCRoute", "reviews", "edge", "grpc", rules))
            .await?;
        all_go_to(bed, "v1").await
    }

    /// Has a route of the mesh and one of the gateway lead to this version, and waits until the proxies of the client and
    /// of the gateway obey them.
    async fn all_go_to(bed: &Bed, version: &str) -> anyhow::Result<()> {
        let rules = json!([{"backendRefs": [to(version, 1)]}]);
        bed.good_route(objects::http_route("reviews-of-the-mesh", rules.clone()))
            .await?;
        bed.gateway_route(route("HTTPRoute", "reviews", "edge", "http", rules))
            .await?;
        for (pod, service) in [("client", "reviews"), ("visitor", "edge-weft")] {
            let url = format!("http://{service}/reviews/1");
            eventually(&format!("{pod} to be led to {version}"), async || {
                let summary = bed.load(pod, &url, &["-n", "20"]).await?;
                summary.all_from(version).map(drop)
            })
            .await?;
        }
        Ok(())
    }

    /// Makes the changes under traffic within the mesh and through the gateway.
    async fn under_all_traffic<T>(
        bed: &Bed,
        changes: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        // Boxed, as one within the other they would not fit on a test's stack.
        let changes = Box::pin(changes);
        let changes = bed.under_share_of_traffic(SHARE, "visitor", "edge-weft", changes);
        let changes = Box::pin(changes);
        let changes = bed.under_share_of_traffic(SHARE, "client", "reviews", changes);
        let ((made, through_the_gateway), within_the_mesh) = Box::pin(changes).await?;
        within_the_mesh.as_expected().context("within the mesh")?;
        through_the_gateway
            .as_expected()
            .context("at the gateway")?;
        Ok(made)
    }

    async fn proxy_of(bed: &Bed, pod: &str) -> anyhow::Result<String> {
        let pod = bed.get("v1", "Pod", pod).await?;
        proxy_image(&pod).with_context(|| format!("it has no proxy: {}", pod["spec"]))
    }

    /// Fails unless there are such pods, each with a proxy of this version.
    fn proxies_are_of(pods: &[Value], version: &str) -> anyhow::Result<()> {
        let images: Vec<_> = pods.iter().map(proxy_image).collect();
        let wanted = format!("weft/proxy:{version}");
        let all = images
            .iter()
            .all(|image| image.as_ref().is_some_and(|image| image.ends_with(&wanted)));
        anyhow::ensure!(
            !pods.is_empty() && all,
            "proxies should be of {version}: {images:?}"
        );
        Ok(())
    }

    /// The control plane is brought from one version to the other; the pods that were there before keep their proxies, and
    /// obey; pods that are rolled get the other.
    async fn brought(
        bed: &Bed,
        (from, to): (&str, &str),
        bring: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let changes = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let (whole, created) = bed
                .creations_during(async {
                    bring.await?;
                    bed.control_plane_of(to).await
                })
                .await?;
            created.all()?;
            created.all_injected()?;
            eventually("the gateway's pods to be rolled", async || {
                proxies_are_of(&bed.gateway_pods("edge", 1).await?, to)
            })
            .await?;
            // Of v1 all proxies are of one version, of v2 of the other.
            bed.restart_deployment("reviews-v1").await?;
            all_go_to(bed, "v2").await?;
            all_go_to(bed, "v1").await?;
            anyhow::Ok(whole)
        };
        under_all_traffic(bed, changes).await?;
        let rolled = bed.list("v1", "Pod", "app=reviews,version=v1").await?;
        proxies_are_of(&rolled, to)?;
        for pod in ["client", "reviews-v2"] {
            let image = proxy_of(bed, pod).await?;
            anyhow::ensure!(image.ends_with(from), "{pod} was not rolled: {image}");
        }
        not_restarted(bed).await
    }

    async fn not_restarted(bed: &Bed) -> anyhow::Result<()> {
        for pod in bed.list("v1", "Pod", "").await? {
            let name = &pod["metadata"]["name"];
            anyhow::ensure!(objects::restarts(&pod) == 0, "{name} was restarted");
        }
        Ok(())
    }

    pub(super) async fn upgrade_fails_no_request(bed: &Bed) -> anyhow::Result<()> {
        let found = Release::found().await?;
        begin(bed).await?;
        brought(bed, (&found.version, NEXT), found.upgrade()).await
    }

    pub(super) async fn rollback_fails_no_request(bed: &Bed) -> anyhow::Result<()> {
        let found = Release::found().await?;
        found.upgrade().await?;
        bed.control_plane_of(NEXT).await?;
        begin(bed).await?;
        brought(bed, (NEXT, &found.version), found.roll_back()).await
    }

    /// The root's certificate and key.
    async fn root(bed: &Bed) -> anyhow::Result<Value> {
        let system = control_plane::system(&bed.client);
        let mut secret = system.get("v1", "Secret", "weft-ca").await?;
        Ok(secret["data"].take())
    }

    /// The uids of pods that have a proxy.
    async fn pods_with_proxy(bed: &Bed) -> anyhow::Result<Vec<Value>> {
        let mut pods = bed.list("v1", "Pod", "").await?;
        pods.retain(|pod| proxy_image(pod).is_some());
        let uids = pods
            .into_iter()
            .map(|mut pod| pod["metadata"]["uid"].take());
        Ok(uids.collect())
    }

    /// Waits until the proxies of the client, of both versions and of the gateway say of their stream to the controller that
    /// it is there, or that it is not.
    async fn connected(bed: &Bed, wanted: bool) -> anyhow::Result<()> {
        for pod in bed.list("v1", "Pod", "").await? {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            if proxy_image(&pod).is_none() {
                continue;
            }
            let what = format!("weft_config_connected of {name} to be {wanted}");
            eventually(&what, async || {
                let value = bed.metric(name, "weft_config_connected", &[]).await?;
                anyhow::ensure!((value == 1.0) == wanted, "it is {value}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// What is left of the installation is what the documentation says.
    async fn nothing_else_is_left() -> anyhow::Result<()> {
        let stay = [
            "secret/weft-ca",
            "secret/weft-injector-tls",
            "lease.coordination.k8s.io/weft-controller",
            "lease.coordination.k8s.io/weft-provisioner",
            "lease.coordination.k8s.io/weft-provisioner-report",
            // Kubernetes' own, of every namespace.
            "configmap/kube-root-ca.crt",
            "serviceaccount/default",
        ];
        eventually("the release to be gone", async || {
            let mut left = release::objects_of_release().await?;
            let there = release::objects_of_namespace().await?;
            left.extend(there.into_iter().filter(|name| {
                !stay.contains(&name.as_str())
                    && !name.starts_with("lease.coordination.k8s.io/proxies.")
            }));
            anyhow::ensure!(left.is_empty(), "it left {left:?}");
            Ok(())
        })
        .await
    }

    /// A pod that is created now is outside of the mesh, and served by permissive pods of it.
    async fn a_new_pod_has_no_proxy(bed: &Bed) -> anyhow::Result<()> {
        bed.apply(objects::client("latecomer")).await?;
        let pod = bed.ready("latecomer").await?;
        anyhow::ensure!(proxy_image(&pod).is_none(), "it has a proxy");
        let load = bed.load("latecomer", "http://reviews/reviews/1", &["-n", "20"]);
        load.await?.all("200").map(drop)
    }

    pub(super) async fn uninstall_fails_no_request(bed: &Bed) -> anyhow::Result<()> {
        let found = Release::found().await?;
        begin(bed).await?;
        let (root_before, before) = (root(bed).await?, pods_with_proxy(bed).await?);
        let changes = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let ((), created) = bed.creations_during(found.uninstall()).await?;
            created.all()?;
            a_new_pod_has_no_proxy(bed).await?;
            nothing_else_is_left().await?;
            connected(bed, false).await
        };
        under_all_traffic(bed, changes).await?;
        anyhow::ensure!(root(bed).await? == root_before, "the root stays");
        anyhow::ensure!(
            pods_with_proxy(bed).await? == before,
            "the pods of the mesh and of the gateway stay"
        );
        not_restarted(bed).await
    }

    pub(super) async fn reinstall_fails_no_request(bed: &Bed) -> anyhow::Result<()> {
        let found = Release::found().await?;
        begin(bed).await?;
        let (root_before, before) = (root(bed).await?, pods_with_proxy(bed).await?);
        let changes = async {
            found.uninstall().await?;
            connected(bed, false).await?;
            found.install().await?;
            connected(bed, true).await?;
            all_go_to(bed, "v2").await?;
            anyhow::ensure!(root(bed).await? == root_before, "the root is the same");
            anyhow::ensure!(
                pods_with_proxy(bed).await? == before,
                "the pods of the mesh and of the gateway are the same"
            );
            // What begins now joins the others.
            bed.restart_deployment("reviews-v1").await?;
            let begun = bed.list("v1", "Pod", "app=reviews,version=v1").await?;
            proxies_are_of(&begun, &found.version)?;
            all_go_to(bed, "v1").await
        };
        under_all_traffic(bed, changes).await?;
        not_restarted(bed).await
    }
}

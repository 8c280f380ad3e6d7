//! Prints the state of the namespace and of the control plane when a test fails. Errors in here are
//! printed and otherwise ignored.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, LogParams};

use crate::{TestNamespace, objects};

pub(crate) async fn print(ns: &TestNamespace) {
    eprintln!("---- namespace {} ----", ns.namespace);
    let pods = ns
        .pods()
        .list(&ListParams::default())
        .await
        .map(|list| list.items);
    for pod in pods.unwrap_or_else(|error| {
        eprintln!("pods: {error}");
        Vec::new()
    }) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let status = serde_json::to_value(&pod.status).unwrap_or_default();
        eprintln!(
            "pod {name}: {} {}",
            status["phase"], status["containerStatuses"]
        );
        log(&ns.pods(), &name, "weft-proxy", 20).await;
        log(&ns.pods(), &name, "shop", 5).await;
    }
    print_events(ns).await;
    for kind in ["Gateway", "HTTPRoute", "GRPCRoute"] {
        for route in ns
            .list(objects::GATEWAY, kind, "")
            .await
            .unwrap_or_default()
        {
            eprintln!("{kind} {}: {}", route["metadata"]["name"], route["status"]);
        }
    }
    print_controller(ns).await;
    eprintln!("---- end of {} ----", ns.namespace);
}

async fn print_events(ns: &TestNamespace) {
    for event in ns.list("v1", "Event", "").await.unwrap_or_default() {
        if event["type"] != "Normal" {
            eprintln!(
                "event {}: {} {}",
                event["involvedObject"]["name"], event["reason"], event["message"]
            );
        }
    }
}

async fn print_controller(ns: &TestNamespace) {
    let pods: Api<Pod> = Api::namespaced(ns.client.clone(), "weft-system");
    let Ok(list) = pods.list(&ListParams::default()).await else {
        return;
    };
    for pod in list.items {
        let name = pod.metadata.name.unwrap_or_default();
        if name.starts_with("weft-controller") || name.starts_with("weft-provisioner") {
            log(&pods, &name, "", 20).await;
        }
    }
}

async fn log(pods: &Api<Pod>, pod: &str, container: &str, lines: i64) {
    let container = Some(container.to_owned()).filter(|name| !name.is_empty());
    let parameters = LogParams {
        container: container.clone(),
        tail_lines: Some(lines),
        ..Default::default()
    };
    match pods.logs(pod, &parameters).await {
        Ok(text) => eprintln!("log of {pod} {}:\n{text}", container.unwrap_or_default()),
        Err(error) => eprintln!("log of {pod}: {error}"),
    }
}

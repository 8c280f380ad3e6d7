//! Injected faults as text, and the example of them.

use std::path::Path;

use weft_ir::{FaultAbort, FaultHeader, FaultInjection, FaultStatus};
use weft_translate::{Objects, translate};

use crate::input::{self, settings};

pub(crate) fn view(of: &FaultInjection) -> String {
    let FaultInjection {
        filter,
        header,
        delay,
        abort,
    } = of;
    let mut text = format!("by {filter}");
    if let Some(FaultHeader { name, value }) = header {
        text += &format!(" with {name} {value:?}");
    }
    if let Some(delay) = delay {
        text += &format!(", {} % wait {:?}", delay.share().get(), delay.time());
    }
    if let Some(FaultAbort { status, share }) = abort {
        let status = match status {
            FaultStatus::Http(status) => format!("HTTP {}", status.get().as_u16()),
            FaultStatus::Grpc(status) => format!("gRPC {}", status.get()),
        };
        text += &format!(", {} % get {status}", share.get());
    }
    text
}

/// The example is valid as it stands: its Service is of the sample shop.
#[test]
fn example_is_accepted() {
    let service = serde_json::json!({
        "metadata": {"name": "reviews", "namespace": "shop"},
        "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"name": "http", "port": 80}]},
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/policies");
    let text = std::fs::read_to_string(folder.join("fault-reviews.yaml")).unwrap();
    let mut objects = Objects::default();
    input::add(&mut objects, "Service", &service).unwrap();
    for document in input::documents(&text) {
        let kind = document["kind"].as_str().unwrap().to_owned();
        input::add(&mut objects, &kind, &document).unwrap();
    }
    assert_eq!(objects.fault_filters.len(), 1);
    let statuses = translate(&objects, &settings()).statuses;
    let [status] = &statuses[..] else {
        panic!("{statuses:?}");
    };
    for condition in &status.parents[0].conditions {
        assert!(condition.status, "{}", condition.message);
    }
}

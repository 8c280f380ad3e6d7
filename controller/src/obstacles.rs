//! Why Gateways lack objects that they run on: the provisioner's report to the replica that writes
//! statuses: an annotation of a Lease in Weft's namespace. The condition Programmed has one writer
//! so, and the provisioner writes no status.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_ir::GatewayId;

use crate::kubernetes::{ReportError, ReportLease};

/// Why each Gateway lacks objects; those that lack none are absent.
pub type Obstacles = Arc<BTreeMap<GatewayId, String>>;

const LEASE: &str = "weft-provisioner-report";
const ANNOTATION: &str = "weft.dev/obstacles";
/// Annotations of one object may have 256 KiB; Gateways beyond this are left out.
const MAX_BYTES: usize = 200 * 1024;
/// Characters of one obstacle.
const MAX_CHARS: usize = 1024;

fn encode(obstacles: &Obstacles) -> String {
    let mut size = 0;
    let mut texts = BTreeMap::new();
    for (gateway, obstacle) in &**obstacles {
        let text: String = obstacle.chars().take(MAX_CHARS).collect();
        // JSON writes a control character in up to six bytes.
        size += gateway.to_string().len() + text.len() * 6 + 6;
        if size > MAX_BYTES {
            break;
        }
        texts.insert(gateway.to_string(), text);
    }
    json!(texts).to_string()
}

/// Text that cannot be read names no obstacle.
fn decode(text: &str) -> Obstacles {
    let texts: BTreeMap<String, String> = serde_json::from_str(text).unwrap_or_default();
    let obstacles = texts.into_iter().filter_map(|(gateway, text)| {
        let (namespace, name) = gateway.split_once('/')?;
        Some((GatewayId::new(namespace, name), text))
    });
    Arc::new(obstacles.collect())
}

/// Writes the report.
pub(crate) async fn write(
    client: &Client,
    namespace: &str,
    obstacles: &Obstacles,
) -> Result<(), ReportError> {
    let lease = ReportLease {
        name: LEASE,
        label: None,
        annotation: ANNOTATION,
        text: encode(obstacles),
        spec: None,
    };
    let api = Api::<Lease>::namespaced(client.clone(), namespace);
    lease.apply(&api).await
}

/// Keeps `obstacles` as the provisioner reports them, until `stop`. What was read stays while the
/// watch is interrupted.
pub async fn follow(
    client: Client,
    namespace: String,
    obstacles: watch::Sender<Obstacles>,
    stop: CancellationToken,
) {
    let api = Api::<Lease>::namespaced(client, &namespace);
    let mut changes = Box::pin(watch_object(api, LEASE).default_backoff());
    while let Some(Some(change)) = stop.run_until_cancelled(changes.next()).await {
        match change {
            Ok(lease) => {
                let text = lease
                    .as_ref()
                    .and_then(|lease| lease.annotations().get(ANNOTATION));
                let now = text.map(|text| decode(text)).unwrap_or_default();
                obstacles.send_if_modified(|before| {
                    let changed = *before != now;
                    *before = now;
                    changed
                });
            }
            Err(error) => tracing::warn!(
                lease = LEASE, namespace, %error,
                "watch of the provisioner's report interrupted: going on with the last report and \
                 trying again; check that the controller's account may list and watch this Lease"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacles(all: &[(&str, &str)]) -> Obstacles {
        let all = all.iter().map(|(name, text)| {
            let gateway = GatewayId::new("shop", *name);
            (gateway, (*text).to_owned())
        });
        Arc::new(all.collect())
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let some = obstacles(&[("a", "Service shop/a-weft exists: \"x\"\n"), ("b", "")]);
        assert_eq!(decode(&encode(&some)), some);
        assert_eq!(decode("no JSON"), Obstacles::default());
        assert_eq!(decode(r#"{"no-namespace": "x"}"#), Obstacles::default());
    }

    #[test]
    fn a_report_fits_an_annotation() {
        let names: Vec<String> = (0..1000).map(|n| format!("g-{n}")).collect();
        let long = "\u{1}".repeat(5000);
        let all: Vec<_> = names.iter().map(|name| (name.as_str(), &*long)).collect();
        let text = encode(&obstacles(&all));
        assert!(text.len() <= MAX_BYTES, "{}", text.len());
        assert!(!decode(&text).is_empty());
    }
}

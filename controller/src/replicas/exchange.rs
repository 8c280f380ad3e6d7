//! Writes this replica's report and reads those of the others, by polls: at most one write and one list in two seconds.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::report::{Others, Report};
use crate::kubernetes::{self, FIELD_MANAGER};
use crate::snapshot::Snapshots;
use crate::status;
use crate::subscribe::Registry;

const ANNOTATION: &str = "weft.dev/proxies";
const LABEL: &str = "weft.dev/report";
const LABELLED: &str = "weft.dev/report=proxies";
/// Between two looks at what is connected here, and at the others' reports.
const EVERY: Duration = Duration::from_secs(2);
/// A report that says the same is written again after this long.
const AGAIN: Duration = Duration::from_secs(10);
/// A report that was not written again for this long is of a replica that is gone.
const GONE: Duration = Duration::from_secs(30);
/// Its Lease is removed after this long.
const REMOVE: Duration = Duration::from_secs(600);
/// One request to the API server.
const REQUEST: Duration = Duration::from_secs(3);
/// Between two times at which streams are given away, and which part of the surplus then.
const SHED: Duration = Duration::from_secs(10);
const PART: usize = 10;

/// One replica's part in it.
pub struct Exchange {
    pub client: Client,
    pub namespace: String,
    /// What this replica is called.
    pub name: String,
    pub snapshots: Snapshots,
    pub registry: Registry,
    pub leader: watch::Receiver<bool>,
    /// What the others say.
    pub others: watch::Sender<Others>,
    pub stop: CancellationToken,
}

/// Reports as they were read last: the version of each, and since when it has been the same.
type Seen = HashMap<String, (Option<String>, Instant)>;

impl Exchange {
    /// Until told to stop.
    pub async fn run(self) {
        let api = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let (mut seen, mut said) = (Seen::new(), None);
        let mut shed = Instant::now() + SHED;
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.stop.cancelled() => break,
            }
            self.say(&api, &mut said).await;
            match timeout(REQUEST, self.read(&api, &mut seen)).await {
                Ok(Ok(others)) => {
                    self.others.send_if_modified(|before| {
                        let differs = *before != others;
                        *before = others;
                        differs
                    });
                }
                Ok(Err(error)) => tracing::warn!(
                    %error, "the reports of the other controllers are not read; check the controller's Role for leases"
                ),
                Err(_) => {}
            }
            if Instant::now() >= shed {
                shed = Instant::now() + SHED;
                self.shed();
            }
        }
        let (name, params) = (lease_of(&self.name), DeleteParams::default());
        drop(timeout(REQUEST, api.delete(&name, &params)).await);
    }

    fn report(&self) -> Report {
        // The leader counts its own proxies itself.
        let snapshot = self.snapshots.borrow().clone();
        let snapshot = snapshot.filter(|_| !*self.leader.borrow());
        let routes = snapshot.map_or_else(BTreeMap::new, |snapshot| {
            status::counts(&snapshot, &self.registry)
        });
        Report::bounded(self.registry.streams(), routes)
    }

    async fn say(&self, api: &Api<Lease>, said: &mut Option<(Report, Instant)>) {
        let report = self.report();
        if let Some((before, at)) = said
            && *before == report
            && at.elapsed() < AGAIN
        {
            return;
        }
        let Ok(text) = serde_json::to_string(&report) else {
            return;
        };
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": lease_of(&self.name),
                "labels": {LABEL: "proxies", "app.kubernetes.io/managed-by": FIELD_MANAGER},
                "annotations": {ANNOTATION: text},
            },
            "spec": {
                "holderIdentity": self.name,
                "leaseDurationSeconds": GONE.as_secs(),
                "renewTime": MicroTime(Timestamp::now()),
            },
        });
        let (name, params) = (lease_of(&self.name), kubernetes::apply());
        let apply = Patch::Apply(&lease);
        match timeout(REQUEST, api.patch(&name, &params, &apply)).await {
            Ok(Ok(_)) => *said = Some((report, Instant::now())),
            Ok(Err(error)) => tracing::warn!(
                %error, lease = name,
                "the proxies connected here are not reported; check the controller's Role for leases"
            ),
            Err(_) => {}
        }
    }

    async fn read(&self, api: &Api<Lease>, seen: &mut Seen) -> Result<Others, kube::Error> {
        let leases = api.list(&ListParams::default().labels(LABELLED)).await?;
        let now = Instant::now();
        let names: Vec<_> = leases.items.iter().map(ResourceExt::name_any).collect();
        seen.retain(|name, _| names.contains(name));
        let mut others = Others::default();
        for (lease, name) in leases.items.iter().zip(names) {
            if name == lease_of(&self.name) {
                continue;
            }
            let version = lease.resource_version();
            let known = seen.entry(name.clone()).or_insert((version.clone(), now));
            if known.0 != version {
                *known = (version, now);
            }
            let unchanged = now.duration_since(known.1);
            if unchanged >= REMOVE && *self.leader.borrow() {
                drop(api.delete(&name, &DeleteParams::default()).await);
            }
            let text = lease.annotations().get(ANNOTATION);
            let report = text.and_then(|text| serde_json::from_str(text).ok());
            if unchanged < GONE
                && let Some(report) = report
            {
                others.0.insert(name, report);
            }
        }
        Ok(others)
    }

    fn shed(&self) {
        let surplus = self.others.borrow().surplus(self.registry.streams());
        if surplus > 0 {
            let some = surplus.div_ceil(PART);
            tracing::info!(
                surplus,
                ended = some,
                "this controller has more than its share of proxies: some connect again"
            );
            self.registry.shed(some);
        }
    }
}

fn lease_of(replica: &str) -> String {
    format!("proxies.{replica}")
}

//! Writes this replica's report and polls those of the others: at most one write and one list in
//! two seconds.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::report::{Others, Report};
use super::tally;
use crate::kubernetes::{ReportError, ReportLease};
use crate::snapshot::Snapshots;
use crate::subscribe::Registry;

const ANNOTATION: &str = "weft.dev/proxies";
const LABEL: &str = "weft.dev/report";
const LABELLED: &str = "weft.dev/report=proxies";
/// The interval at which the report is compared, and the others' reports are read.
const INTERVAL: Duration = Duration::from_secs(2);
/// The interval at which an unchanged report is written again.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A report that was not written for this long is ignored: its replica has ended.
const EXPIRY: Duration = Duration::from_secs(30);
/// A Lease that was not written for this long is deleted.
const REMOVAL: Duration = Duration::from_secs(600);
/// One request to the API server.
const REQUEST: Duration = Duration::from_secs(3);
/// The interval at which surplus streams are ended, and the part of the surplus that is.
const SHED_INTERVAL: Duration = Duration::from_secs(10);
const SHED_DIVISOR: usize = 10;

/// Exchanges reports with the other replicas.
pub struct Exchange {
    pub client: Client,
    pub namespace: String,
    /// The name of this replica.
    pub name: String,
    pub snapshots: Snapshots,
    pub registry: Registry,
    pub leader: watch::Receiver<bool>,
    /// The reports of the others.
    pub others: watch::Sender<Others>,
    pub stop: CancellationToken,
}

/// The version of each report as last read, and since when it has been unchanged.
type LastReads = HashMap<String, (Option<String>, Instant)>;

impl Exchange {
    /// Runs until `stop`.
    pub async fn run(self) {
        let api = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let (mut reads, mut written) = (LastReads::new(), None);
        let mut shed = Instant::now() + SHED_INTERVAL;
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = self.stop.cancelled() => break,
            }
            self.write(&api, &mut written).await;
            match timeout(REQUEST, self.read(&api, &mut reads)).await {
                Ok(Ok(others)) => {
                    self.others.send_if_modified(|before| {
                        let differs = *before != others;
                        *before = others;
                        differs
                    });
                }
                Ok(Err(error)) => tracing::warn!(
                    %error, "reading the reports of other replicas failed: trying again; check the controller's Role for leases"
                ),
                Err(_) => {}
            }
            if Instant::now() >= shed {
                shed = Instant::now() + SHED_INTERVAL;
                self.shed();
            }
        }
        let (name, params) = (lease_of(&self.name), DeleteParams::default());
        drop(timeout(REQUEST, api.delete(&name, &params)).await);
    }

    fn report(&self) -> Report {
        // The leader counts its own proxies without a report.
        let snapshot = self.snapshots.borrow().clone();
        let snapshot = snapshot.filter(|_| !*self.leader.borrow());
        let routes = snapshot.map_or_else(BTreeMap::new, |snapshot| {
            tally::counts(&snapshot, &self.registry)
        });
        Report::bounded(self.registry.streams(), routes)
    }

    async fn write(&self, api: &Api<Lease>, written: &mut Option<(Report, Instant)>) {
        let report = self.report();
        if let Some((before, at)) = written
            && *before == report
            && at.elapsed() < HEARTBEAT
        {
            return;
        }
        let Ok(text) = serde_json::to_string(&report) else {
            return;
        };
        let name = lease_of(&self.name);
        let lease = ReportLease {
            name: &name,
            label: Some((LABEL, "proxies")),
            annotation: ANNOTATION,
            text,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: i32::try_from(EXPIRY.as_secs()).ok(),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        match lease.apply(api).await {
            Ok(()) => *written = Some((report, Instant::now())),
            Err(ReportError::Timeout) => {}
            Err(error) => tracing::warn!(
                %error, lease = name,
                "writing this replica's report failed: trying again; check the controller's Role \
                 for leases"
            ),
        }
    }

    async fn read(&self, api: &Api<Lease>, reads: &mut LastReads) -> Result<Others, kube::Error> {
        let leases = api.list(&ListParams::default().labels(LABELLED)).await?;
        let now = Instant::now();
        let names: Vec<_> = leases.items.iter().map(ResourceExt::name_any).collect();
        reads.retain(|name, _| names.contains(name));
        let mut others = Others::default();
        for (lease, name) in leases.items.iter().zip(names) {
            if name == lease_of(&self.name) {
                continue;
            }
            let version = lease.resource_version();
            let known = reads.entry(name.clone()).or_insert((version.clone(), now));
            if known.0 != version {
                *known = (version, now);
            }
            let unchanged = now.duration_since(known.1);
            if unchanged >= REMOVAL && *self.leader.borrow() {
                drop(api.delete(&name, &DeleteParams::default()).await);
            }
            let text = lease.annotations().get(ANNOTATION);
            let report = text.and_then(|text| serde_json::from_str(text).ok());
            if unchanged < EXPIRY
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
            let some = surplus.div_ceil(SHED_DIVISOR);
            tracing::info!(
                surplus,
                ended = some,
                "this replica has more than its share of streams: ending some, so that their \
                 proxies connect again"
            );
            self.registry.shed(some);
        }
    }
}

fn lease_of(replica: &str) -> String {
    format!("proxies.{replica}")
}

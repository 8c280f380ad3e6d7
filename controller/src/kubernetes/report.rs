//! Leases whose annotation carries the report of one process to the others of the control plane.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Api;
use kube::api::{ObjectMeta, Patch};
use tokio::time::timeout;

use super::{FIELD_MANAGER, MANAGED_BY, apply};

/// One request to the API server.
const REQUEST: Duration = Duration::from_secs(3);

/// A Lease with a report.
pub(crate) struct ReportLease<'a> {
    pub(crate) name: &'a str,
    /// A label by which the reports of several replicas are listed.
    pub(crate) label: Option<(&'static str, &'static str)>,
    pub(crate) annotation: &'static str,
    /// The report.
    pub(crate) text: String,
    pub(crate) spec: Option<LeaseSpec>,
}

/// Why a report was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    #[error(transparent)]
    Kubernetes(#[from] kube::Error),
    #[error("the API server did not answer")]
    Timeout,
}

impl ReportLease<'_> {
    /// Creates or updates the Lease.
    pub(crate) async fn apply(self, api: &Api<Lease>) -> Result<(), ReportError> {
        let name = self.name;
        let labels = [(MANAGED_BY, FIELD_MANAGER)].into_iter().chain(self.label);
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels.collect()),
                annotations: Some(BTreeMap::from([(self.annotation.to_owned(), self.text)])),
                ..ObjectMeta::default()
            },
            spec: self.spec,
        };
        let (parameters, patch) = (apply(), Patch::Apply(&lease));
        match timeout(REQUEST, api.patch(name, &parameters, &patch)).await {
            Ok(written) => written.map(drop).map_err(ReportError::from),
            Err(_) => Err(ReportError::Timeout),
        }
    }
}

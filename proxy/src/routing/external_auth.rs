//! External servers as requests ask them.

use std::sync::Arc;

use weft_ir::ExternalAuth;

use crate::upstream::Cluster;

/// The check of requests by an external server.
pub struct ResolvedAuth {
    /// The place of its filter among those of its rule, backend or listener.
    pub position: usize,
    pub config: Arc<ExternalAuth>,
    /// `Err`: every request is answered with 500 and this reason.
    pub server: Result<Arc<Cluster>, Arc<str>>,
}

impl ResolvedAuth {
    /// Returns true if requests are checked by the cluster.
    pub(crate) fn refers_to(&self, cluster: &Arc<Cluster>) -> bool {
        self.server
            .as_ref()
            .is_ok_and(|of| Arc::ptr_eq(of, cluster))
    }
}

//! The limits of what this proxy sends to one cluster.

use std::sync::Arc;

use weft_ir::{ClientLimits, RequestLimit};

use super::{Limited, Limiter};
use crate::telemetry::limits::LimitMetrics;

/// `None`: not limited.
#[derive(Clone, Debug, Default)]
pub struct ClientLimiters {
    pub requests: Option<Arc<Limiter>>,
    pub connections: Option<Arc<Limiter>>,
}

impl ClientLimiters {
    /// Puts other limits in force. A limiter that stays keeps its count; one that goes admits all
    /// who wait.
    #[must_use]
    pub fn changed(&self, limits: &ClientLimits, metrics: &LimitMetrics) -> Self {
        let ClientLimits {
            max_connections,
            requests,
        } = limits;
        let connections = max_connections.map(|max_requests| RequestLimit {
            max_requests,
            queue: None,
        });
        let changed = |of, limiter: &Option<Arc<Limiter>>, limit: Option<RequestLimit>| {
            if let Some(limiter) = limiter {
                limiter.set(limit);
            }
            let limit = limit?;
            let new = || Limiter::new(of, limit, metrics.waiting_at_client.clone());
            Some(limiter.clone().unwrap_or_else(new))
        };
        Self {
            requests: changed(Limited::ClientRequests, &self.requests, *requests),
            connections: changed(Limited::ClientConnections, &self.connections, connections),
        }
    }
}

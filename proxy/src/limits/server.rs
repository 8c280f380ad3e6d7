//! The limits of what this pod's application gets, by its port.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use arc_swap::ArcSwap;
use weft_ir::RequestLimit;

use super::{Limited, Limiter};
use crate::telemetry::limits::LimitMetrics;

#[derive(Debug, Default)]
pub struct ServerLimiters {
    /// Whether there is a limit at all: all that a request reads where there is none.
    any: AtomicBool,
    by_port: ArcSwap<BTreeMap<u16, Arc<Limiter>>>,
}

impl ServerLimiters {
    /// Puts other limits in force. A limiter that stays keeps its count; one that goes admits all
    /// who wait.
    pub fn set(&self, limits: &BTreeMap<u16, RequestLimit>, metrics: &LimitMetrics) {
        let before = self.by_port.load();
        for (port, limiter) in &**before {
            limiter.set(limits.get(port).copied());
        }
        let limiters = limits.iter().map(|(port, limit)| {
            let waiting = &metrics.waiting_at_server;
            let new = || Limiter::new(Limited::ServerRequests, *limit, waiting.clone());
            (*port, before.get(port).cloned().unwrap_or_else(new))
        });
        self.by_port.store(Arc::new(limiters.collect()));
        self.any.store(!limits.is_empty(), Relaxed);
    }

    /// Returns the limiter of a port.
    pub fn of(&self, port: u16) -> Option<Arc<Limiter>> {
        if !self.any.load(Relaxed) {
            return None;
        }
        self.by_port.load().get(&port).cloned()
    }
}

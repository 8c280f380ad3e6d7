//! What is told of connections whose bytes are passed on: counters by route and backend, and a line
//! of the access log.
//!
//! Both are written when the connection ends. Connections that are open now are counted in
//! [`super::metrics`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use serde::Serialize;
use weft_ir::Identity;

use super::access;
use super::requests::{Direction, RequestMetrics};
use crate::net::tcp::BytesTransferred;

/// The connections of one (direction, route, rule, backend) that have ended.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    whole: AtomicU64,
    failed: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl ConnectionCounts {
    /// `failed`: it was closed without its peers' wish, or broke off.
    pub fn ended(&self, passed: BytesTransferred, failed: bool) {
        let result = if failed { &self.failed } else { &self.whole };
        result.fetch_add(1, Relaxed);
        self.up.fetch_add(passed.up, Relaxed);
        self.down.fetch_add(passed.down, Relaxed);
    }

    fn any(&self) -> bool {
        self.whole.load(Relaxed) + self.failed.load(Relaxed) > 0
    }
}

/// What is said of one connection. What is `None` or empty is left out of the line.
#[derive(Debug, Serialize)]
pub struct ConnectionRecord<'a> {
    #[serde(serialize_with = "access::direction")]
    pub direction: Direction,
    pub client: SocketAddr,
    #[serde(
        serialize_with = "access::display",
        skip_serializing_if = "Option::is_none"
    )]
    pub client_id: Option<&'a Identity>,
    #[serde(
        serialize_with = "access::display",
        skip_serializing_if = "Option::is_none"
    )]
    pub server_id: Option<&'a Identity>,
    /// `tls` (the application's own) or `tcp`.
    pub protocol: &'static str,
    /// The server that the client named in its ClientHello, where routes go by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub route: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub rule: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub backend: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Why the connection was closed, or how it broke off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
    #[serde(rename = "duration_ms", serialize_with = "access::milliseconds")]
    pub duration: Duration,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// Writes the counters of `handles` out.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    handles: &[Arc<RequestMetrics>],
) -> fmt::Result {
    let used = || handles.iter().filter(|handle| handle.connections.any());
    if used().next().is_none() {
        return Ok(());
    }
    let mut ended = encoder.encode_descriptor(
        "weft_opaque_connections",
        "Connections passed on as bytes that have ended",
        None,
        MetricType::Counter,
    )?;
    for handle in used() {
        let ConnectionCounts { whole, failed, .. } = &handle.connections;
        for (result, count) in [("ok", whole), ("failed", failed)] {
            let mut labels = handle.label_pairs();
            labels.push(("result", result.to_owned()));
            ended
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(&count.load(Relaxed), None)?;
        }
    }
    let mut bytes = encoder.encode_descriptor(
        "weft_opaque_bytes",
        "Bytes of such connections",
        None,
        MetricType::Counter,
    )?;
    for handle in used() {
        let ConnectionCounts { up, down, .. } = &handle.connections;
        for (way, count) in [("to_server", up), ("to_client", down)] {
            let mut labels = handle.label_pairs();
            labels.push(("way", way.to_owned()));
            bytes
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(&count.load(Relaxed), None)?;
        }
    }
    Ok(())
}

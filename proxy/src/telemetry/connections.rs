//! Telemetry of connections whose bytes are passed on: counters by route and backend, and a line
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
use weft_ir::{Identity, PolicyId};

use super::access;
use super::authorization::AuthorizationDecision;
use super::error_type::ErrorType;
use super::labels::Direction;
use super::requests::{OutcomeCounts, RequestMetrics};
use crate::net::tcp::BytesTransferred;

/// The connections of one (direction, parent, route, rule, backend) that have ended.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    /// By error; `None`: closed by its peers.
    ended: OutcomeCounts<Option<ErrorType>>,
    up: AtomicU64,
    down: AtomicU64,
}

impl ConnectionCounts {
    /// `error`: it was closed without its peers' wish, or broke off.
    pub fn ended(&self, passed: BytesTransferred, error: Option<ErrorType>) {
        self.ended.count(error);
        self.up.fetch_add(passed.up, Relaxed);
        self.down.fetch_add(passed.down, Relaxed);
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization: Option<AuthorizationDecision>,
    /// The policy that decided.
    #[serde(
        serialize_with = "access::display",
        skip_serializing_if = "Option::is_none"
    )]
    pub authorization_policy: Option<&'a PolicyId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_type: Option<ErrorType>,
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
    let used = || {
        let of = |handle: &&Arc<RequestMetrics>| !handle.connections.ended.is_empty();
        handles.iter().filter(of)
    };
    if used().next().is_none() {
        return Ok(());
    }
    let mut ended = encoder.encode_descriptor(
        "weft_opaque_connections",
        "Completed opaque connections.",
        None,
        MetricType::Counter,
    )?;
    for handle in used() {
        for (error, count) in handle.connections.ended.counts() {
            let mut labels = handle.label_pairs();
            labels.push(("result", error.map_or("ok", |_| "failed").to_owned()));
            if let Some(error_type) = error {
                labels.push(("error_type", error_type.as_str().to_owned()));
            }
            ended
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
    }
    let mut bytes = encoder.encode_descriptor(
        "weft_opaque_bytes",
        "Bytes of completed opaque connections.",
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

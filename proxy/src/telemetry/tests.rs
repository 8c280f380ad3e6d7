//! The metrics page satisfies `promtool check metrics`.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use http::StatusCode;

use super::error_type::ErrorType;
use super::labels::{
    ConnectionTls, Direction, MirrorResult, PassthroughReason, RequestProtocol, RetryResult,
};
use super::metrics::Metrics;
use super::outcome::RequestOutcome;
use crate::net::tcp::BytesTransferred;
use crate::tls::HandshakeError;

/// A page with a value of every kind of metric.
fn page() -> String {
    let metrics = Metrics::new();
    metrics.active_requests(Direction::Inbound).inc();
    let failed = RequestOutcome {
        protocol: RequestProtocol::Http1,
        code: StatusCode::BAD_GATEWAY,
        grpc_status: None,
        error_type: Some(ErrorType::UpstreamReset),
    };
    metrics.inbound.record(failed, Duration::from_millis(1));
    metrics.outbound_pod.count_retry(RetryResult::Succeeded);
    let connections = &metrics.outbound_unknown.connections;
    connections.ended(BytesTransferred::default(), None);
    let reset = Some(ErrorType::ConnectionReset);
    connections.ended(BytesTransferred::default(), reset);
    drop(metrics.connection(Direction::Gateway, ConnectionTls::Terminated));
    metrics.handshake(Direction::Inbound, Ok(()));
    metrics.backend_handshake(Err(HandshakeError::Name));
    metrics.protocol_error("outbound", ErrorType::NotHttp);
    metrics.passed_through(PassthroughReason::OwnAddress);
    metrics.mirrored(MirrorResult::Answered);
    metrics.shed(ErrorType::MemoryLimit);
    metrics.udp.dropped(ErrorType::NoRoute);
    metrics.encode().unwrap()
}

#[test]
fn metrics_page_is_valid_openmetrics() {
    let page = page();
    let mut help = HashSet::new();
    let mut types = HashMap::new();
    let mut series = HashSet::new();
    for line in page.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, text] => {
                assert!(help.insert(name), "{line}");
                assert!(!text.is_empty(), "{line}");
            }
            ["#", "TYPE", name, of] => {
                assert!(help.contains(name), "HELP is missing: {line}");
                assert!(types.insert(name, of).is_none(), "{line}");
            }
            ["#", "EOF"] => {}
            _ => {
                let (labels, _) = line.rsplit_once(' ').unwrap();
                assert!(series.insert(labels), "a repeated series: {line}");
                assert!(!labels.contains("=\"\""), "an empty label: {line}");
                let name = labels.split('{').next().unwrap();
                let suffixes = ["_total", "_bucket", "_sum", "_count"];
                let family = suffixes
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix))
                    .filter(|family| types.contains_key(family))
                    .unwrap_or(name);
                let is_counter = types.get(family) == Some(&"counter");
                assert!(types.contains_key(family), "TYPE is missing: {line}");
                assert_eq!(is_counter, name.ends_with("_total"), "{line}");
            }
        }
    }
    for line in [
        r#"weft_requests_active{direction="inbound"} 1"#,
        r#"weft_requests_active{direction="gateway"} 0"#,
        r#"weft_opaque_connections_total{direction="outbound",backend_kind="Unknown",result="failed",error_type="connection_reset"} 1"#,
        r#"weft_tls_handshakes_total{direction="backend",result="name"} 1"#,
        r#"weft_udp_dropped_total{error_type="no_route"} 1"#,
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
}

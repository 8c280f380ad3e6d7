//! Every handle of [`super::requests`] by its labels, and how they are written out.
//!
//! The number of series is bounded: beyond the bound, those that no configuration uses give way,
//! and when all are in use, new ones are counted together under the route `other`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::connections;
use super::labels::{RequestLabels, Route};
use super::requests::RequestMetrics;
use crate::lease::Owner;

/// Every handle, by its labels.
#[derive(Debug)]
pub struct RequestSeries {
    /// Those in use are leased: by the configuration, or by a request of an earlier one.
    known: Mutex<HashMap<RequestLabels, Owner<RequestMetrics>>>,
    max: usize,
}

impl RequestSeries {
    pub fn new(max: usize) -> Self {
        Self {
            known: Mutex::default(),
            max,
        }
    }

    /// The handle of these labels, made at the first call. For configuration changes, not for
    /// requests.
    pub fn get(&self, mut labels: RequestLabels) -> Arc<RequestMetrics> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= self.max && !known.contains_key(&labels) {
            known.retain(|_, handle| handle.is_leased());
            if known.len() >= self.max {
                labels = RequestLabels {
                    route: Route::Other,
                    ..RequestLabels::of(labels.direction)
                };
            }
        }
        let handle = known
            .entry(labels.clone())
            .or_insert_with(|| Owner::new(RequestMetrics::new(labels)));
        handle.lease()
    }

    fn handles(&self) -> Vec<Arc<RequestMetrics>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().map(Owner::lease).collect()
    }
}

/// Writes the series out at each scrape.
#[derive(Debug)]
pub(super) struct RequestCollector(pub(super) Arc<RequestSeries>);

impl Collector for RequestCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut handles = self.0.handles();
        connections::encode(&mut encoder, &handles)?;
        encode_retries(&mut encoder, &handles)?;
        // Without a request a handle says nothing.
        handles.retain(|handle| !handle.responses.is_empty());
        if handles.is_empty() {
            return Ok(());
        }
        encode_responses(&mut encoder, &handles)?;
        encode_durations(&mut encoder, &handles)
    }
}

fn encode_responses(
    encoder: &mut DescriptorEncoder<'_>,
    handles: &[Arc<RequestMetrics>],
) -> fmt::Result {
    let help = "Completed requests.";
    let mut family = encoder.encode_descriptor("weft_requests", help, None, MetricType::Counter)?;
    for handle in handles {
        for (outcome, count) in handle.responses.counts() {
            let mut labels = handle.label_pairs();
            outcome.append_to(&mut labels);
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
    }
    Ok(())
}

fn encode_durations(
    encoder: &mut DescriptorEncoder<'_>,
    handles: &[Arc<RequestMetrics>],
) -> fmt::Result {
    let name = "weft_request_duration_seconds";
    let help = "Time from a request's headers to the end of its response.";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for handle in handles {
        for (class, values) in handle.durations() {
            let mut labels = handle.label_pairs();
            labels.push(("status_class", class.as_str().to_owned()));
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(values.sum, values.count, &values.buckets, None)?;
        }
    }
    Ok(())
}

fn encode_retries(
    encoder: &mut DescriptorEncoder<'_>,
    handles: &[Arc<RequestMetrics>],
) -> fmt::Result {
    let retried: Vec<_> = handles
        .iter()
        .flat_map(|handle| handle.retries().map(move |of| (handle, of)))
        .collect();
    if retried.is_empty() {
        return Ok(());
    }
    let name = "weft_request_retries";
    let help = "Retries that a rule asks for, sent or not.";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (handle, (result, count)) in retried {
        let mut labels = handle.label_pairs();
        labels.push(("result", result.as_str().to_owned()));
        family
            .encode_family(&labels)?
            .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use tonic::Code;
    use weft_ir::{RouteId, RouteKind, ServicePort};

    use super::super::error_type::ErrorType;
    use super::super::labels::{BackendRef, Direction, Parent, RequestProtocol, RetryResult};
    use super::super::metrics::Metrics;
    use super::super::outcome::RequestOutcome;
    use super::super::requests::MAX_OUTCOMES;
    use super::*;

    const OK: RequestOutcome = RequestOutcome {
        protocol: RequestProtocol::Http1,
        code: StatusCode::OK,
        grpc_status: None,
        error_type: None,
    };

    fn route(name: &str) -> RequestLabels {
        let id = RouteId {
            kind: RouteKind::Http,
            namespace: "a".into(),
            name: name.into(),
        };
        RequestLabels {
            direction: Direction::Outbound,
            parent: Parent::Service(ServicePort::new("a", "web", 80)),
            route: Route::Rule(id, "0".into()),
            backend: BackendRef::Service(ServicePort::new("a", "v1", 80)),
        }
    }

    #[test]
    fn request_metrics_are_labelled_by_route_and_outcome() {
        let metrics = Metrics::new();
        let get = || metrics.requests.get(route("b"));
        get().record(OK, Duration::from_millis(3));
        get().record(OK, Duration::from_millis(70));
        let unavailable = RequestOutcome {
            protocol: RequestProtocol::Grpc,
            grpc_status: Some(Code::Unavailable),
            error_type: Some(ErrorType::NoEndpoints),
            ..OK
        };
        get().record(unavailable, Duration::ZERO);
        get().count_retry(RetryResult::BudgetExhausted);
        let text = metrics.encode().unwrap();
        let labels = concat!(
            r#"direction="outbound","#,
            r#"parent_kind="Service",parent_namespace="a",parent_name="web",parent_port="80","#,
            r#"route_kind="HTTPRoute",route_namespace="a",route_name="b",rule="0","#,
            r#"backend_kind="Service",backend_namespace="a",backend_name="v1",backend_port="80""#,
        );
        let duration = "weft_request_duration_seconds";
        for line in [
            format!(r#"weft_requests_total{{{labels},code="200",protocol="http/1.1"}} 2"#),
            format!(
                r#"weft_requests_total{{{labels},code="200",protocol="grpc",grpc_status="14",error_type="no_endpoints"}} 1"#
            ),
            format!(r#"{duration}_bucket{{le="0.0025",{labels},status_class="2xx"}} 0"#),
            format!(r#"{duration}_bucket{{le="0.005",{labels},status_class="2xx"}} 1"#),
            format!(r#"{duration}_bucket{{le="+Inf",{labels},status_class="2xx"}} 2"#),
            format!(r#"{duration}_count{{{labels},status_class="2xx"}} 2"#),
            format!(r#"{duration}_sum{{{labels},status_class="2xx"}} 0.073"#),
            format!(r#"{duration}_count{{{labels},status_class="5xx"}} 1"#),
            format!(r#"weft_request_retries_total{{{labels},result="budget_exhausted"}} 1"#),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn series_limit_evicts_unused_series() {
        let series = RequestSeries::new(3);
        let get = |name: &str| series.get(route(name));
        let held: Vec<_> = ["a", "b"].map(get).to_vec();
        drop(get("c"));
        assert_eq!(get("d").route(), "HTTPRoute a/d", "c is evicted");
        let d = get("d");
        let other = get("e");
        assert_eq!(
            (other.route(), other.rule(), other.backend()),
            ("other", "", "")
        );
        drop((held, d, other));
        assert_eq!(get("f").route(), "HTTPRoute a/f");
    }

    #[test]
    fn peer_cannot_create_unbounded_series() {
        let series = RequestSeries::new(3);
        let handle = series.get(RequestLabels::of(Direction::Inbound));
        for code in 100..1_000 {
            let code = StatusCode::from_u16(code).unwrap();
            for status in -5..100 {
                let outcome = RequestOutcome {
                    protocol: RequestProtocol::Grpc,
                    code,
                    grpc_status: Some(Code::from(status)),
                    error_type: None,
                };
                handle.record(outcome, Duration::ZERO);
            }
        }
        assert_eq!(handle.responses.counts().len(), MAX_OUTCOMES);
        assert!(handle.durations().count() <= 5);
    }
}

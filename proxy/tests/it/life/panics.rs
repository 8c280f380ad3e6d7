//! A panic while one request is handled fails that request alone: others on its connection are
//! answered.

use http::Request;
use tracing::span;
use weft_api::encode;
use weft_ir::{Mode, Probe, ProbeRequest, Workload};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

use super::soon;
use crate::support::*;

/// Panics when the proxy logs the refusal of a request, in the middle of handling it.
struct Panics;

impl tracing::Subscriber for Panics {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        let refusal = metadata.fields().field("error_type").is_some();
        refusal && metadata.target().starts_with("weft_proxy::listen::inbound")
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        panic!("a test's panic");
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// A strict pod that accepts only its probe in plain text.
async fn probed(app: &Upstream) -> Pod {
    let pod = Pod::start(&Pki::new().unwrap(), "reviews", Mode::Strict);
    let probe = Probe {
        port: app.address().port(),
        asks: ProbeRequest::Get("/ready".to_owned()),
    };
    let workload = Workload {
        probes: vec![probe],
        ..Workload::new(pod.identity.clone(), Mode::Strict)
    };
    pod.tell(vec![encode::workload(&workload)]);
    pod
}

// Current-thread runtime: the default subscriber is per thread.
#[tokio::test]
async fn panic_in_one_stream_does_not_affect_other_streams() {
    let app = Upstream::start("v1", Speaks::Http2).await.unwrap();
    let pod = probed(&app).await;
    let back = pod.inbound(app.address());
    let _panics = tracing::subscriber::set_default(Panics);
    let mut other = Client::connect(back, Version::Http2).await;
    let Client::Http2(sender) = &other else {
        unreachable!("an HTTP/2 client");
    };
    let mut same = Client::Http2(sender.clone());
    let in_flight = tokio::spawn(async move {
        let request = Request::get("/ready").header("x-delay", 300);
        same.send(request, "").await.status
    });
    soon("a request in flight", || app.requests() == 1).await;
    let seen = other.get("/refused").await;
    let found = (seen.status, seen.header("weft-error"));
    assert_eq!(found, (500, "the proxy failed on this request"));
    assert_eq!(in_flight.await.unwrap(), 200);
    assert_eq!(other.get("/ready").await.status, 200);
    let metrics = pod.metrics();
    let counted = metrics
        .lines()
        .find(|line| line.starts_with("weft_requests_total") && line.contains(r#"code="500""#));
    assert!(
        counted.is_some_and(|line| line.ends_with(" 1")),
        "{metrics}"
    );
}

#[tokio::test]
async fn http1_connection_survives_panic() {
    let app = Upstream::start("v1", Speaks::Http1).await.unwrap();
    let pod = probed(&app).await;
    let back = pod.inbound(app.address());
    let _panics = tracing::subscriber::set_default(Panics);
    let mut client = Client::connect(back, Version::Http1).await;
    for (path, status) in [("/ready", 200), ("/refused", 500), ("/ready", 200)] {
        assert_eq!(client.get(path).await.status, status, "{path}");
    }
}

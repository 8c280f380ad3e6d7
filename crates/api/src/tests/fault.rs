//! Encoding and decoding of injected faults.

use std::sync::Arc;

use proto::fault_abort::Status;

use super::*;

/// A delay and an answer, of requests with a header.
pub(super) fn injection() -> Arc<FaultInjection> {
    Arc::new(FaultInjection {
        filter: "shop/slow".into(),
        header: Some(FaultHeader {
            name: HeaderName::from_static("x-chaos"),
            value: Some("1".into()),
        }),
        delay: FaultDelay::new(FaultDelay::MOST, Percent::new(100).unwrap()),
        abort: Some(FaultAbort {
            status: FaultStatus::Http(HttpError::new(599).unwrap()),
            share: Percent::new(1).unwrap(),
        }),
    })
}

/// An answer alone.
pub(super) fn abort() -> Arc<FaultInjection> {
    Arc::new(FaultInjection {
        header: None,
        delay: None,
        abort: Some(FaultAbort {
            status: FaultStatus::Grpc(GrpcError::new(14).unwrap()),
            share: Percent::default(),
        }),
        ..injection().as_ref().clone()
    })
}

#[test]
fn invalid_faults_are_rejected_with_the_field() {
    type Change = fn(&mut proto::FaultInjection);
    fn set(of: &mut proto::FaultInjection, status: Option<Status>) {
        of.abort.as_mut().unwrap().status = status;
    }
    let changes: [(&str, Change); 8] = [
        ("header name", |of| {
            of.header.as_mut().unwrap().name = "a b".into();
        }),
        ("fault.delay.milliseconds", |of| {
            of.delay.as_mut().unwrap().milliseconds = 0;
        }),
        ("fault.delay.milliseconds", |of| {
            of.delay.as_mut().unwrap().milliseconds = 60_001;
        }),
        ("fault.delay.percent", |of| {
            of.delay.as_mut().unwrap().percent = 101;
        }),
        ("fault.abort.percent", |of| {
            of.abort.as_mut().unwrap().percent = 101;
        }),
        ("fault.abort.http", |of| set(of, Some(Status::Http(200)))),
        ("fault.abort.grpc", |of| set(of, Some(Status::Grpc(0)))),
        ("fault.abort.status", |of| set(of, None)),
    ];
    for (field, change) in changes {
        let mut wire = encode::fault::injection(&injection());
        change(&mut wire);
        let error = decode::fault::injection(wire).unwrap_err();
        assert!(error.to_string().contains(field), "{field}: {error}");
    }
}

//! Limits, of clients and of pods.

use std::num::NonZeroU32;
use std::time::Duration;

use proto::resource::Body;
use weft_ir::{ClientLimits, Limits, Mode, Queue, RequestLimit, Workload};

use super::*;

fn count(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

pub(super) fn waiting() -> RequestLimit {
    RequestLimit {
        max_requests: count(10),
        queue: Queue::new(count(100), Duration::from_millis(1)),
    }
}

pub(super) fn failing() -> RequestLimit {
    RequestLimit {
        max_requests: NonZeroU32::MAX,
        queue: None,
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        client: ClientLimits {
            max_connections: NonZeroU32::new(7),
            requests: Some(failing()),
        },
        server: Some(waiting()),
    }
}

#[test]
fn invalid_limits_are_refused_with_the_field() {
    type Change = fn(&mut proto::PortLimit);
    let changes: [(&str, Change); 5] = [
        ("workload.limits.port", |of| of.port = 65_536),
        ("workload.limits.limit", |of| of.limit = None),
        ("limits.max_requests", |of| {
            of.limit.as_mut().unwrap().max_requests = 0;
        }),
        ("limits.queue_milliseconds", |of| {
            of.limit.as_mut().unwrap().queue_milliseconds = 0;
        }),
        ("limits.queue_milliseconds", |of| {
            of.limit.as_mut().unwrap().queue_milliseconds = 60_001;
        }),
    ];
    for (field, change) in changes {
        let mut workload = Workload::new(pod().identity.unwrap(), Mode::Strict);
        workload.limits.insert(80, waiting());
        let mut wire = encode::workload(&workload);
        let Some(Body::Workload(of)) = &mut wire.body else {
            panic!("no workload")
        };
        change(&mut of.limits[0]);
        let refused = decode::resource(wire).unwrap_err().to_string();
        assert!(refused.contains(field), "{field}: {refused}");
    }
}

//! Decodes limits.

use std::num::NonZeroU32;
use std::time::Duration;

use weft_ir::{ClientLimits, Limits, Queue, RequestLimit};

use crate::decode::{DecodeError, Decoded, invalid};
use crate::proto;

pub(super) fn limits(wire: proto::Limits) -> Decoded<Limits> {
    let proto::Limits {
        max_connections,
        client,
        server,
    } = wire;
    Ok(Limits {
        client: ClientLimits {
            max_connections: NonZeroU32::new(max_connections),
            requests: client.map(request_limit).transpose()?,
        },
        server: server.map(request_limit).transpose()?,
    })
}

pub(in crate::decode) fn port_limit(wire: proto::PortLimit) -> Decoded<(u16, RequestLimit)> {
    let proto::PortLimit { port, limit } = wire;
    let number = u16::try_from(port).map_err(|_| invalid("workload.limits.port")(&port))?;
    let limit = limit.ok_or(DecodeError::Absent("workload.limits.limit"))?;
    Ok((number, request_limit(limit)?))
}

fn request_limit(wire: proto::RequestLimit) -> Decoded<RequestLimit> {
    let proto::RequestLimit {
        max_requests,
        max_pending,
        queue_milliseconds,
    } = wire;
    let queue = NonZeroU32::new(max_pending).map(|most| {
        let queue = Queue::new(most, Duration::from_millis(queue_milliseconds.into()));
        queue.ok_or_else(|| invalid("limits.queue_milliseconds")(&queue_milliseconds))
    });
    Ok(RequestLimit {
        max_requests: NonZeroU32::new(max_requests)
            .ok_or_else(|| invalid("limits.max_requests")(&max_requests))?,
        queue: queue.transpose()?,
    })
}

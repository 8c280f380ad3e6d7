//! Encodes limits.

use std::num::NonZeroU32;

use weft_ir::{ClientLimits, Limits, RequestLimit};

use super::milliseconds;
use crate::proto;

pub(super) fn limits(of: &Limits) -> proto::Limits {
    let Limits {
        client: ClientLimits {
            max_connections,
            requests,
        },
        server,
    } = of;
    proto::Limits {
        max_connections: max_connections.map_or(0, NonZeroU32::get),
        client: requests.map(request_limit),
        server: server.map(request_limit),
    }
}

pub(in crate::encode) fn port_limit((port, limit): (&u16, &RequestLimit)) -> proto::PortLimit {
    proto::PortLimit {
        port: (*port).into(),
        limit: Some(request_limit(*limit)),
    }
}

fn request_limit(of: RequestLimit) -> proto::RequestLimit {
    let RequestLimit {
        max_requests,
        queue,
    } = of;
    proto::RequestLimit {
        max_requests: max_requests.get(),
        max_pending: queue.map_or(0, |of| of.max_pending().get()),
        queue_milliseconds: queue.map_or(0, |of| milliseconds(of.timeout())),
    }
}

//! Limits as text.

use weft_ir::{ClientLimits, Limits, RequestLimit};

pub(crate) fn limits(of: &Limits) -> String {
    let Limits {
        client: ClientLimits {
            max_connections,
            requests,
        },
        server,
    } = of;
    let connections = max_connections.map(|most| format!("{most} connections of a client"));
    let requests = requests
        .as_ref()
        .map(|of| format!("{} of a client", request_limit(of)));
    let server = server
        .as_ref()
        .map(|of| format!("{} at a server", request_limit(of)));
    let all: Vec<String> = [connections, requests, server]
        .into_iter()
        .flatten()
        .collect();
    all.join(", ")
}

pub(crate) fn request_limit(of: &RequestLimit) -> String {
    let RequestLimit {
        max_requests,
        queue,
    } = of;
    match queue {
        None => format!("{max_requests} requests"),
        Some(queue) => format!(
            "{max_requests} requests and {} waiting {:?}",
            queue.max_pending(),
            queue.timeout()
        ),
    }
}

//! Reads `limits`.

use std::num::NonZeroU32;
use std::time::Duration;

use weft_ir::{ClientLimits, Limits, Queue, RequestLimit};

use super::values::time;

/// The largest number of each field.
const MOST: u32 = 1_000_000;
/// The longest wait, unless the policy says another.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) fn read(of: &weft_policy::Limits, at: &str) -> Result<Limits, String> {
    let weft_policy::Limits { client, server } = of;
    if client.is_none() && server.is_none() {
        return Err(format!("{at}: client or server is required"));
    }
    let client = client.as_ref();
    let client = client.map(|of| read_client(of, &format!("{at}.client")));
    let server = server.as_ref();
    let server = server.map(|of| read_server(of, &format!("{at}.server")));
    Ok(Limits {
        client: client.transpose()?.unwrap_or_default(),
        server: server.transpose()?,
    })
}

fn read_client(of: &weft_policy::ClientLimits, at: &str) -> Result<ClientLimits, String> {
    let weft_policy::ClientLimits {
        max_connections,
        max_requests,
        max_pending_requests,
        queue_timeout,
    } = of;
    let queue = read_queue(*max_pending_requests, queue_timeout, at)?;
    let requests = match max_requests {
        Some(most) => Some(RequestLimit {
            max_requests: count(*most, at, "maxRequests")?,
            queue,
        }),
        None if max_pending_requests.is_some() => {
            return Err(format!("{at}: maxPendingRequests needs maxRequests"));
        }
        None if max_connections.is_none() => {
            return Err(format!("{at}: maxRequests or maxConnections is required"));
        }
        None => None,
    };
    let connections = max_connections.map(|most| count(most, at, "maxConnections"));
    Ok(ClientLimits {
        max_connections: connections.transpose()?,
        requests,
    })
}

fn read_server(of: &weft_policy::ServerLimits, at: &str) -> Result<RequestLimit, String> {
    let weft_policy::ServerLimits {
        max_requests,
        max_pending_requests,
        queue_timeout,
    } = of;
    Ok(RequestLimit {
        max_requests: count(*max_requests, at, "maxRequests")?,
        queue: read_queue(*max_pending_requests, queue_timeout, at)?,
    })
}

fn read_queue(
    max_pending: Option<u32>,
    timeout: &Option<String>,
    at: &str,
) -> Result<Option<Queue>, String> {
    let asked = time(timeout, at, "queueTimeout")?;
    let Some(max_pending) = max_pending else {
        return match asked {
            Some(_) => Err(format!("{at}: queueTimeout needs maxPendingRequests")),
            None => Ok(None),
        };
    };
    if max_pending > MOST {
        return Err(format!(
            "{at}.maxPendingRequests: {max_pending} is not from 0 to {MOST}"
        ));
    }
    let timeout = asked.unwrap_or(QUEUE_TIMEOUT);
    let least = Queue::new(NonZeroU32::MIN, timeout);
    least.ok_or_else(|| {
        format!(
            "{at}.queueTimeout: {timeout:?} is not from {:?} to {:?}",
            Queue::LEAST,
            Queue::MOST
        )
    })?;
    let max_pending = NonZeroU32::new(max_pending);
    Ok(max_pending.and_then(|most| Queue::new(most, timeout)))
}

fn count(number: u32, at: &str, field: &str) -> Result<NonZeroU32, String> {
    let valid = NonZeroU32::new(number).filter(|number| number.get() <= MOST);
    valid.ok_or_else(|| format!("{at}.{field}: {number} is not from 1 to {MOST}"))
}

//! Reads `timeouts`.

use std::time::Duration;

use weft_ir::{ConnectTimeout, PolicyTimeouts, Timeouts};

use super::values::time;

pub(super) fn read(of: &weft_policy::PolicyTimeouts, at: &str) -> Result<PolicyTimeouts, String> {
    let weft_policy::PolicyTimeouts {
        request,
        backend_request,
        connect,
    } = of;
    let limit = |text, field| time(text, at, field).map(|limit| limit.filter(|of| !of.is_zero()));
    let request = limit(request, "request")?;
    let backend = limit(backend_request, "backendRequest")?;
    if let (Some(whole), Some(each)) = (request, backend)
        && each > whole
    {
        return Err(format!(
            "{at}.backendRequest: {each:?} is longer than request, which is {whole:?}"
        ));
    }
    let connect = time(connect, at, "connect")?;
    Ok(PolicyTimeouts {
        requests: Timeouts {
            request: request.into(),
            backend: backend.into(),
        },
        connect: connect.map(|limit| within(limit, at)).transpose()?,
    })
}

fn within(limit: Duration, at: &str) -> Result<ConnectTimeout, String> {
    let (least, most) = (ConnectTimeout::LEAST, ConnectTimeout::MOST);
    let why = || format!("{at}.connect: {limit:?} is not from {least:?} to {most:?}");
    ConnectTimeout::new(limit).ok_or_else(why)
}

//! Filters of listeners, which every request has to pass before a route is chosen.
//!
//! Source: `ListenerFilters` (GEP-5224). A type that is not supported closes the listener. One
//! whose server cannot be resolved stays in place and fails every request.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_ir::{ExternalAuth, ServicePort};

use crate::conditions::Fault;
use crate::objects::{Lenient, Listener, ListenerFilter};
use crate::references::grants::Referrer;
use crate::routes::{ListenerAuth, Resolver, listener_auth};

/// Number of filters that a listener can have.
const MOST: usize = 16;

/// The filters of a listener.
#[derive(Debug, Default)]
pub(crate) struct ReadFilters {
    /// In their order.
    pub(crate) all: Vec<Arc<ExternalAuth>>,
    /// Faults of the condition ResolvedRefs.
    pub(crate) unresolved: Vec<Fault>,
    /// The servers that exist.
    pub(crate) targets: BTreeSet<ServicePort>,
}

/// Reads the filters of a listener. Errors with the reason of Accepted=False if one of them is not
/// understood.
pub(crate) fn read(
    spec: &Listener,
    from: Referrer<'_>,
    resolver: Option<&Resolver>,
) -> Result<ReadFilters, Fault> {
    let filters = spec.filters.as_ref();
    let filters = filters.map_err(|why| Fault::value("filters", why))?;
    let requests = filters.as_ref().map_or(&[][..], |of| &of.requests);
    if requests.is_empty() {
        return Ok(ReadFilters::default());
    }
    if !matches!(&*spec.protocol, "HTTP" | "HTTPS") {
        let why = "only listeners of protocol HTTP and HTTPS have filters";
        return Err(invalid(Fault::value("filters", why)));
    }
    if requests.len() > MOST {
        let why = format_args!("{} filters are more than {MOST}", requests.len());
        return Err(invalid(Fault::value("filters.requests", why)));
    }
    let mut read = ReadFilters::default();
    for (position, entry) in requests.iter().enumerate() {
        let at = format!("filters.requests[{position}]");
        let ListenerAuth {
            filter,
            unresolved,
            target,
        } = one(entry, &at, from, resolver)?;
        read.all.push(filter);
        read.unresolved.extend(unresolved.map(of_listener));
        read.targets.extend(target);
    }
    Ok(read)
}

fn one(
    entry: &Lenient<ListenerFilter>,
    at: &str,
    from: Referrer<'_>,
    resolver: Option<&Resolver>,
) -> Result<ListenerAuth, Fault> {
    let ListenerFilter {
        kind,
        external_auth,
        extension_ref: _,
    } = entry.as_ref().map_err(|why| Fault::value(at, why))?;
    if kind != "ExternalAuth" {
        let why = format_args!(
            "type {kind:?} is not supported, and ignoring it would let through requests that it \
             is meant to stop; supported is ExternalAuth"
        );
        return Err(Fault::value(at, why));
    }
    let spec = external_auth
        .as_ref()
        .ok_or_else(|| invalid(Fault::value(at, "externalAuth is required")))?;
    listener_auth(spec, &format!("{at}.externalAuth"), from, resolver).map_err(invalid)
}

/// A filter that is supported, with a value that is not.
fn invalid(fault: Fault) -> Fault {
    Fault {
        reason: "InvalidListenerFilter",
        ..fault
    }
}

/// The reasons of routes have a counterpart for listeners.
fn of_listener(fault: Fault) -> Fault {
    match fault.reason {
        "RefNotPermitted" => fault,
        _ => Fault {
            reason: "InvalidListenerFilterRef",
            ..fault
        },
    }
}

//! Rules of TLSRoutes, TCPRoutes and UDPRoutes: backends by weight, and the names of servers.
//!
//! Source: `TLSRouteSpec`, `TCPRouteSpec`, `UDPRouteSpec`; each has one rule. GEP-1294 leaves the meaning of `hostnames` under a
//! Service open; here they are what a TLSRoute means by them anywhere: the names in the ClientHello.

use std::sync::Arc;

use serde::de::IgnoredAny;
use weft_ir::{ConnectionRule, Filter, RouteId, TlsRule};

use super::backends::{Context, byte_backends};
use super::compiled::CompiledConnections;
use super::report::Report;
use super::resolver::Resolver;
use super::values::host_patterns;
use crate::conditions::Fault;
use crate::objects::{ByteRule, Lenient, TlsRouteSpec};

/// `None` where host names are given and none can be read: without any, the rule would take every connection.
pub(super) fn tls_rule(
    id: &RouteId,
    spec: &TlsRouteSpec,
    resolver: &Resolver,
    report: &mut Report,
) -> Option<CompiledConnections<TlsRule>> {
    let hostnames = host_patterns(&spec.hostnames, report);
    let CompiledConnections { rule, works } = rule(id, &spec.rules, resolver, report);
    let takes_some = spec.hostnames.is_empty() || !hostnames.is_empty();
    takes_some.then_some(CompiledConnections {
        rule: TlsRule { hostnames, rule },
        works,
    })
}

/// A rule that cannot be read has no backends: its connections are closed.
pub(super) fn rule(
    id: &RouteId,
    specs: &[Lenient<ByteRule>],
    resolver: &Resolver,
    report: &mut Report,
) -> CompiledConnections<ConnectionRule> {
    let further = 1..specs.len();
    let ignored = further.map(|place| format!("rules[{place}]"));
    report.ignored.extend(ignored);
    let context = Context {
        route: id,
        rule: 0,
        resolver,
    };
    let (name, backends, works) = match specs.first().map(Lenient::as_ref) {
        Some(Ok(ByteRule { name, backend_refs })) => {
            let backends = byte_backends(backend_refs, &context, no_filters, report);
            if backends.list.is_empty() {
                let why = "no backend: connections are closed";
                report.fault(0, Fault::value("rules[0].backendRefs", why));
            }
            let works = !backends.list.is_empty() && !backends.all_faulty;
            (name.as_deref().map(Arc::from), backends.list, works)
        }
        Some(Err(why)) => {
            report.fault(0, Fault::value("rules[0]", why));
            (None, Vec::new(), false)
        }
        None => {
            report.fault(0, Fault::value("rules", "no rule: connections are closed"));
            (None, Vec::new(), false)
        }
    };
    let rule = ConnectionRule {
        route: id.clone(),
        index: 0,
        name,
        backends,
    };
    CompiledConnections { rule, works }
}

/// Bytes have no filters: the field is none of these kinds'.
fn no_filters(
    _: &[Lenient<IgnoredAny>],
    _: &str,
    _: &Context<'_>,
    _: &mut Report,
) -> Result<Vec<Filter>, Fault> {
    Ok(Vec::new())
}

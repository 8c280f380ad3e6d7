//! Rules of TLSRoutes, TCPRoutes and UDPRoutes: weighted backends, and SNI host names.
//!
//! Source: `TLSRouteSpec`, `TCPRouteSpec`, `UDPRouteSpec`; each has one rule. GEP-1294 does not
//! define `hostnames` of a TLSRoute on a Service; they match the SNI of the ClientHello, as on
//! Gateways.

use std::sync::Arc;

use serde::de::IgnoredAny;
use weft_ir::{ConnectionRule, Filter, RouteId, TlsRule};

use super::backends::{RuleContext, connection_backends};
use super::compiled::CompiledConnections;
use super::report::Report;
use super::resolver::TrackedLookup;
use super::values::host_patterns;
use crate::conditions::Fault;
use crate::objects::{ConnectionRuleSpec, Lenient, TlsRouteSpec};

/// Returns `None` if host names are given and none can be read: without any, the rule would match
/// every connection.
pub(super) fn tls_rule(
    id: &RouteId,
    spec: &TlsRouteSpec,
    lookup: &TrackedLookup<'_>,
    report: &mut Report,
) -> Option<CompiledConnections<TlsRule>> {
    let (hostnames, faults) = host_patterns(&spec.hostnames);
    report.fault_all(0, faults);
    let CompiledConnections { rule, usable } = rule(id, &spec.rules, lookup, report);
    let takes_some = spec.hostnames.is_empty() || !hostnames.is_empty();
    takes_some.then_some(CompiledConnections {
        rule: TlsRule { hostnames, rule },
        usable,
    })
}

/// A rule that cannot be read has no backends, so its connections are closed.
pub(super) fn rule(
    id: &RouteId,
    specs: &[Lenient<ConnectionRuleSpec>],
    lookup: &TrackedLookup<'_>,
    report: &mut Report,
) -> CompiledConnections<ConnectionRule> {
    let further = 1..specs.len();
    let ignored = further.map(|position| format!("rules[{position}]"));
    report.ignored.extend(ignored);
    let context = RuleContext {
        route: id,
        rule: 0,
        lookup,
    };
    let (name, backends, usable) = match specs.first().map(Lenient::as_ref) {
        Some(Ok(ConnectionRuleSpec { name, backend_refs })) => {
            let backends = connection_backends(backend_refs, &context, no_filters, report);
            if backends.list.is_empty() {
                let why = "is empty; connections are closed";
                report.fault(0, Fault::value("rules[0].backendRefs", why));
            }
            let usable = !backends.list.is_empty() && !backends.all_invalid;
            (name.as_deref().map(Arc::from), backends.list, usable)
        }
        Some(Err(why)) => {
            report.fault(0, Fault::value("rules[0]", why));
            (None, Vec::new(), false)
        }
        None => {
            report.fault(0, Fault::value("rules", "is empty; connections are closed"));
            (None, Vec::new(), false)
        }
    };
    let rule = ConnectionRule {
        route: id.clone(),
        index: 0,
        name,
        backends,
    };
    CompiledConnections { rule, usable }
}

/// Routes of these kinds have no filters.
fn no_filters(
    _: &[Lenient<IgnoredAny>],
    _: &str,
    _: &RuleContext<'_>,
    _: &mut Report,
) -> Result<Vec<Filter>, Fault> {
    Ok(Vec::new())
}

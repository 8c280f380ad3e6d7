//! Decodes rules of routes.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use weft_ir::{
    Allowed, Backend, ConnectionRule, Cors, Filter, Fraction, HeaderEdit, HeaderMatch, HostPattern,
    Mirror, OriginPattern, PathEdit, PathMatch, QueryMatch, Redirect, RequestMatch, Retry, Rewrite,
    RouteId, RouteKind, Rule, TimeLimit, Timeouts, TlsRule, ValueMatch, WeightedBackend,
};

use super::external_auth::external_auth;
use super::{Context, DecodeError, Decoded, all, fault, invalid, service_port};
use crate::proto;

pub(super) fn rule(wire: proto::Rule, context: &Context<'_>) -> Decoded<Arc<Rule>> {
    let proto::Rule {
        route,
        index,
        name,
        matches,
        filters,
        backends,
        request_timeout,
        backend_timeout,
        failure,
        retry,
        no_request_timeout,
        no_backend_timeout,
    } = wire;
    let limit = |nanos, none| match none {
        true => TimeLimit::Unlimited,
        false => limit(nanos),
    };
    Ok(Arc::new(Rule {
        route: route_id(route.ok_or(DecodeError::Absent("rule.route"))?)?,
        index,
        name: text(name),
        matches: all(matches, |wire| request_match(wire, context))?,
        filters: all(filters, filter)?,
        backends: all(backends, backend)?,
        timeouts: Timeouts {
            request: limit(request_timeout, no_request_timeout),
            backend: limit(backend_timeout, no_backend_timeout),
        },
        retry: retry.map(self::retry).transpose()?,
        failure: text(failure),
    }))
}

pub(super) fn tls_rule(wire: proto::TlsRule) -> Decoded<TlsRule> {
    let proto::TlsRule { hostnames, rule } = wire;
    let hostname = |text: String| {
        let parsed = text.parse::<HostPattern>();
        parsed.map_err(|error| invalid("tls_rule.hostnames")(&error))
    };
    Ok(TlsRule {
        hostnames: all(hostnames, hostname)?,
        rule: connection_rule(rule.ok_or(DecodeError::Absent("tls_rule.rule"))?)?,
    })
}

pub(super) fn connection_rule(wire: proto::ConnectionRule) -> Decoded<ConnectionRule> {
    let proto::ConnectionRule {
        route,
        index,
        name,
        backends,
    } = wire;
    Ok(ConnectionRule {
        route: route_id(route.ok_or(DecodeError::Absent("rule.route"))?)?,
        index,
        name: text(name),
        backends: all(backends, backend)?,
    })
}

pub(super) fn retry(wire: proto::Retry) -> Decoded<Retry> {
    let proto::Retry {
        codes,
        attempts,
        backoff,
    } = wire;
    let code = |code: u32| {
        let code = u16::try_from(code).ok();
        code.and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or_else(|| invalid("retry.codes")(&"not a status code"))
    };
    Ok(Retry {
        codes: all(codes, code)?,
        // The controller can be older than the limits, and its limits do not protect the proxy.
        attempts: attempts.min(Retry::MAX_ATTEMPTS),
        backoff: Duration::from_nanos(backoff).max(Retry::LEAST_BACKOFF),
    })
}

/// 0 stands for absent.
pub(super) fn limit(nanos: u64) -> TimeLimit {
    match nanos {
        0 => TimeLimit::Unsaid,
        nanos => TimeLimit::Within(Duration::from_nanos(nanos)),
    }
}

/// Empty text stands for absent.
fn text(wire: String) -> Option<Arc<str>> {
    (!wire.is_empty()).then(|| wire.into())
}

pub(super) fn route_id(wire: proto::Route) -> Decoded<RouteId> {
    let kind = match wire.kind() {
        proto::route::Kind::Http => RouteKind::Http,
        proto::route::Kind::Grpc => RouteKind::Grpc,
        proto::route::Kind::Tls => RouteKind::Tls,
        proto::route::Kind::Tcp => RouteKind::Tcp,
        proto::route::Kind::Udp => RouteKind::Udp,
        proto::route::Kind::Unspecified => return Err(DecodeError::Absent("route.kind")),
    };
    Ok(RouteId {
        kind,
        namespace: wire.namespace.into(),
        name: wire.name.into(),
    })
}

pub(super) fn request_match(wire: proto::Match, context: &Context<'_>) -> Decoded<RequestMatch> {
    use proto::path_match::Kind;
    let proto::Match {
        path,
        headers,
        query,
        method,
        invalid: is_invalid,
    } = wire;
    let path = match path
        .map(|path| path.kind.ok_or(DecodeError::Absent("match.path")))
        .transpose()?
    {
        None => None,
        Some(Kind::Exact(path)) => Some(PathMatch::Exact(path)),
        Some(Kind::Prefix(path)) => Some(PathMatch::Prefix(path)),
        Some(Kind::Regex(path)) => Some(PathMatch::Regex(context.pattern("match.path", &path)?)),
        Some(Kind::GrpcMethod(method)) => Some(PathMatch::GrpcMethod(method)),
    };
    let method = match method.as_str() {
        "" => None,
        name => Some(
            Method::from_bytes(name.as_bytes()).map_err(|error| invalid("match.method")(&error))?,
        ),
    };
    let header = |wire: proto::ValueMatch| {
        let (name, value) = value_match(wire, context)?;
        Ok(HeaderMatch {
            name: header_name(&name)?,
            value,
        })
    };
    let parameter = |wire| {
        let (name, value) = value_match(wire, context)?;
        Ok(QueryMatch { name, value })
    };
    Ok(RequestMatch {
        path,
        headers: all(headers, header)?,
        query: all(query, parameter)?,
        method,
        invalid: is_invalid,
    })
}

fn value_match(wire: proto::ValueMatch, context: &Context<'_>) -> Decoded<(String, ValueMatch)> {
    use proto::value_match::Kind;
    let value = match wire.kind.ok_or(DecodeError::Absent("match.value"))? {
        Kind::Exact(text) => ValueMatch::Exact(text),
        Kind::Regex(text) => ValueMatch::Regex(context.pattern("match.value", &text)?),
    };
    Ok((wire.name, value))
}

pub(super) fn header_name(name: &str) -> Decoded<HeaderName> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|error| invalid("header name")(&format_args!("{name:?}: {error}")))
}

fn header_value(value: &str) -> Decoded<HeaderValue> {
    HeaderValue::from_str(value)
        .map_err(|error| invalid("header value")(&format_args!("{value:?}: {error}")))
}

fn filter(wire: proto::Filter) -> Decoded<Filter> {
    use proto::filter::Kind;
    // Filters must never be skipped, so an unsupported one rejects the whole resource.
    Ok(match wire.kind.ok_or(DecodeError::Absent("filter"))? {
        Kind::RequestHeaders(wire) => Filter::RequestHeaders(header_edit(wire)?),
        Kind::ResponseHeaders(wire) => Filter::ResponseHeaders(header_edit(wire)?),
        Kind::Redirect(wire) => Filter::Redirect(redirect(wire)?),
        Kind::Rewrite(proto::Rewrite { host, path }) => Filter::Rewrite(Rewrite {
            host: text(host).map(|host| header_value(&host)).transpose()?,
            path: path.map(path_edit).transpose()?,
        }),
        Kind::Mirror(wire) => Filter::Mirror(mirror(wire)?),
        Kind::Cors(wire) => Filter::Cors(cors(wire)?),
        Kind::ExternalAuth(wire) => Filter::ExternalAuth(external_auth(wire)?),
        Kind::Fault(wire) => Filter::Fault(fault::injection(wire)?.into()),
    })
}

fn mirror(wire: proto::Mirror) -> Decoded<Mirror> {
    let proto::Mirror {
        to,
        numerator,
        denominator,
    } = wire;
    let fraction = Fraction::new(numerator, denominator);
    let text = format_args!("{numerator} of {denominator}");
    Ok(Mirror {
        to: service_port(to.ok_or(DecodeError::Absent("mirror.to"))?)?,
        fraction: fraction.ok_or_else(|| invalid("mirror.numerator")(&text))?,
    })
}

fn cors(wire: proto::Cors) -> Decoded<Cors> {
    let proto::Cors {
        origins,
        credentials,
        methods,
        headers,
        expose,
        max_age,
    } = wire;
    let origin = |text: String| {
        let parsed: Result<OriginPattern, _> = text.parse();
        parsed.map_err(|error| invalid("cors.origins")(&error))
    };
    let allowed = |text: String| {
        Ok(match text.as_str() {
            "" => Allowed::Unsaid,
            "*" => Allowed::Any,
            these => Allowed::These(header_value(these)?),
        })
    };
    Ok(Cors {
        origins: all(origins, origin)?,
        credentials,
        methods: allowed(methods)?,
        headers: allowed(headers)?,
        expose: allowed(expose)?,
        max_age,
    })
}

fn header_edit(wire: proto::HeaderEdit) -> Decoded<HeaderEdit> {
    let proto::HeaderEdit { set, add, remove } = wire;
    let header = |proto::Header { name, value }| Ok((header_name(&name)?, header_value(&value)?));
    Ok(HeaderEdit {
        set: all(set, header)?,
        add: all(add, header)?,
        remove: all(remove, |name| header_name(&name))?,
    })
}

fn redirect(wire: proto::Redirect) -> Decoded<Redirect> {
    let proto::Redirect {
        scheme,
        host,
        port,
        path,
        code,
    } = wire;
    let port = u16::try_from(port).map_err(|error| invalid("redirect.port")(&error))?;
    let code = u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok());
    let code = code.filter(StatusCode::is_redirection);
    Ok(Redirect {
        scheme: text(scheme),
        host: text(host),
        port: (port > 0).then_some(port),
        path: path.map(path_edit).transpose()?,
        code: code.ok_or_else(|| invalid("redirect.code")(&"not a 3xx status code"))?,
    })
}

fn path_edit(wire: proto::PathEdit) -> Decoded<PathEdit> {
    use proto::path_edit::Kind;
    Ok(match wire.kind.ok_or(DecodeError::Absent("path edit"))? {
        Kind::Full(path) => PathEdit::Full(path),
        Kind::Prefix(path) => PathEdit::Prefix(path),
    })
}

pub(super) fn backend(wire: proto::WeightedBackend) -> Decoded<WeightedBackend> {
    use proto::weighted_backend::Backend as Wire;
    let proto::WeightedBackend {
        weight,
        backend,
        filters,
    } = wire;
    let backend = match backend.ok_or(DecodeError::Absent("backend"))? {
        Wire::Service(id) => Backend::Service(service_port(id)?),
        Wire::Invalid(reason) => Backend::Invalid(reason.into()),
    };
    Ok(WeightedBackend {
        weight,
        backend,
        filters: all(filters, filter)?,
    })
}

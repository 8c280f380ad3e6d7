//! Encodes rules of routes.

use std::time::Duration;

use weft_ir::{
    Allowed, Backend, ConnectionRule, Cors, Filter, HeaderEdit, HeaderMatch, Mirror, PathEdit,
    PathMatch, QueryMatch, Redirect, RequestMatch, Retry, Rewrite, RouteId, RouteKind, Rule,
    TimeLimit, Timeouts, TlsRule, ValueMatch, WeightedBackend,
};

use super::external_auth::external_auth;
use super::{fault, service_port};
use crate::proto;

pub(super) fn tls_rule(of: &TlsRule) -> proto::TlsRule {
    let TlsRule { hostnames, rule } = of;
    proto::TlsRule {
        hostnames: hostnames.iter().map(ToString::to_string).collect(),
        rule: Some(connection_rule(rule)),
    }
}

pub(super) fn connection_rule(of: &ConnectionRule) -> proto::ConnectionRule {
    let ConnectionRule {
        route,
        index,
        name,
        backends,
    } = of;
    proto::ConnectionRule {
        route: Some(route_id(route)),
        index: *index,
        name: name.as_deref().unwrap_or_default().to_owned(),
        backends: backends.iter().map(backend).collect(),
    }
}

pub(super) fn route_id(of: &RouteId) -> proto::Route {
    let RouteId {
        kind,
        namespace,
        name,
    } = of;
    let kind = match kind {
        RouteKind::Http => proto::route::Kind::Http,
        RouteKind::Grpc => proto::route::Kind::Grpc,
        RouteKind::Tls => proto::route::Kind::Tls,
        RouteKind::Tcp => proto::route::Kind::Tcp,
        RouteKind::Udp => proto::route::Kind::Udp,
    };
    proto::Route {
        kind: kind.into(),
        namespace: namespace.to_string(),
        name: name.to_string(),
    }
}

pub(super) fn rule(of: &Rule) -> proto::Rule {
    let Rule {
        route,
        index,
        name,
        matches,
        filters,
        backends,
        timeouts,
        retry,
        failure,
    } = of;
    let Timeouts {
        request,
        backend: one_try,
    } = timeouts;
    proto::Rule {
        route: Some(route_id(route)),
        index: *index,
        name: name.as_deref().unwrap_or_default().to_owned(),
        matches: matches.iter().map(request_match).collect(),
        filters: filters.iter().map(filter).collect(),
        backends: backends.iter().map(backend).collect(),
        request_timeout: limit(*request),
        backend_timeout: limit(*one_try),
        no_request_timeout: *request == TimeLimit::Unlimited,
        no_backend_timeout: *one_try == TimeLimit::Unlimited,
        failure: failure.as_deref().unwrap_or_default().to_owned(),
        retry: retry.as_ref().map(self::retry),
    }
}

pub(super) fn retry(of: &Retry) -> proto::Retry {
    let Retry {
        codes,
        attempts,
        backoff,
    } = of;
    proto::Retry {
        codes: codes.iter().map(|code| code.as_u16().into()).collect(),
        attempts: *attempts,
        backoff: nanos(*backoff),
    }
}

/// 0 without a limit.
pub(super) fn limit(of: TimeLimit) -> u64 {
    of.get().map_or(0, nanos)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn request_match(of: &RequestMatch) -> proto::Match {
    use proto::path_match::Kind;
    let RequestMatch {
        path,
        headers,
        query,
        method,
        invalid,
    } = of;
    let path = path.as_ref().map(|path| match path {
        PathMatch::Exact(text) => Kind::Exact(text.clone()),
        PathMatch::Prefix(text) => Kind::Prefix(text.clone()),
        PathMatch::Regex(pattern) => Kind::Regex(pattern.as_str().to_owned()),
        PathMatch::GrpcMethod(text) => Kind::GrpcMethod(text.clone()),
    });
    let header = |HeaderMatch { name, value }: &HeaderMatch| value_match(name.as_str(), value);
    let parameter = |QueryMatch { name, value }: &QueryMatch| value_match(name, value);
    proto::Match {
        path: path.map(|kind| proto::PathMatch { kind: Some(kind) }),
        headers: headers.iter().map(header).collect(),
        query: query.iter().map(parameter).collect(),
        method: method.as_ref().map(ToString::to_string).unwrap_or_default(),
        invalid: *invalid,
    }
}

fn value_match(name: &str, value: &ValueMatch) -> proto::ValueMatch {
    use proto::value_match::Kind;
    let kind = match value {
        ValueMatch::Exact(text) => Kind::Exact(text.clone()),
        ValueMatch::Regex(pattern) => Kind::Regex(pattern.as_str().to_owned()),
    };
    proto::ValueMatch {
        name: name.to_owned(),
        kind: Some(kind),
    }
}

fn filter(of: &Filter) -> proto::Filter {
    use proto::filter::Kind;
    let kind = match of {
        Filter::RequestHeaders(edit) => Kind::RequestHeaders(header_edit(edit)),
        Filter::ResponseHeaders(edit) => Kind::ResponseHeaders(header_edit(edit)),
        Filter::Redirect(Redirect {
            scheme,
            host,
            port,
            path,
            code,
        }) => Kind::Redirect(proto::Redirect {
            scheme: scheme.as_deref().unwrap_or_default().to_owned(),
            host: host.as_deref().unwrap_or_default().to_owned(),
            port: port.map_or(0, u32::from),
            path: path.as_ref().map(path_edit),
            code: u32::from(code.as_u16()),
        }),
        Filter::Rewrite(Rewrite { host, path }) => Kind::Rewrite(proto::Rewrite {
            host: host
                .as_ref()
                .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned())
                .unwrap_or_default(),
            path: path.as_ref().map(path_edit),
        }),
        Filter::Mirror(Mirror { to, fraction }) => Kind::Mirror(proto::Mirror {
            to: Some(service_port(to)),
            numerator: fraction.numerator(),
            denominator: fraction.denominator().get(),
        }),
        Filter::Cors(of) => Kind::Cors(cors(of)),
        Filter::ExternalAuth(of) => Kind::ExternalAuth(external_auth(of)),
        Filter::Fault(of) => Kind::Fault(fault::injection(of)),
    };
    proto::Filter { kind: Some(kind) }
}

fn cors(of: &Cors) -> proto::Cors {
    let Cors {
        origins,
        credentials,
        methods,
        headers,
        expose,
        max_age,
    } = of;
    let allowed = |of: &Allowed| match of {
        Allowed::Unsaid => String::new(),
        Allowed::Any => "*".to_owned(),
        Allowed::These(these) => String::from_utf8_lossy(these.as_bytes()).into_owned(),
    };
    proto::Cors {
        origins: origins.iter().map(ToString::to_string).collect(),
        credentials: *credentials,
        methods: allowed(methods),
        headers: allowed(headers),
        expose: allowed(expose),
        max_age: *max_age,
    }
}

fn header_edit(of: &HeaderEdit) -> proto::HeaderEdit {
    let HeaderEdit { set, add, remove } = of;
    let header = |(name, value): &(http::HeaderName, http::HeaderValue)| proto::Header {
        name: name.to_string(),
        value: String::from_utf8_lossy(value.as_bytes()).into_owned(),
    };
    proto::HeaderEdit {
        set: set.iter().map(header).collect(),
        add: add.iter().map(header).collect(),
        remove: remove.iter().map(ToString::to_string).collect(),
    }
}

fn path_edit(of: &PathEdit) -> proto::PathEdit {
    use proto::path_edit::Kind;
    let kind = match of {
        PathEdit::Full(path) => Kind::Full(path.clone()),
        PathEdit::Prefix(path) => Kind::Prefix(path.clone()),
    };
    proto::PathEdit { kind: Some(kind) }
}

pub(super) fn backend(of: &WeightedBackend) -> proto::WeightedBackend {
    use proto::weighted_backend::Backend as Wire;
    let WeightedBackend {
        weight,
        backend,
        filters,
    } = of;
    let backend = match backend {
        Backend::Service(id) => Wire::Service(service_port(id)),
        Backend::Invalid(reason) => Wire::Invalid(reason.to_string()),
    };
    proto::WeightedBackend {
        weight: *weight,
        backend: Some(backend),
        filters: filters.iter().map(filter).collect(),
    }
}

//! Upper bounds of the encoded size of rules, for limits.
//!
//! Every type is destructured without `..`, so that a new field cannot be forgotten. A test of
//! `weft-api` checks that no encoding is larger.

use crate::authentication::{
    Authentication, ClaimHeader, ClaimMatch, JsonWebKey, JwtProvider, KeyMaterial, TokenLocation,
    TokenMatch,
};
use crate::authorization::{
    AuthorizationPolicy, AuthorizationRule, PolicyEffect, PolicyId, SourceMatch,
};
use crate::connection::{ConnectionRule, TlsRule};
use crate::cors::{Allowed, Cors};
use crate::external_auth::{ExternalAuth, ExternalAuthProtocol, HttpAuth};
use crate::fault::{FaultHeader, FaultInjection};
use crate::gateway::{KeyPair, ServerTls};
use crate::hosts::HostPattern;
use crate::names::ServicePort;
use crate::pattern::Pattern;
use crate::route::{
    Backend, Filter, HeaderEdit, HeaderMatch, Mirror, PathEdit, PathMatch, QueryMatch, Redirect,
    RequestMatch, Retry, Rewrite, RouteId, Rule, ValueMatch, WeightedBackend,
};

/// The tag of a field, and its length or value.
const FIELD: usize = 7;
/// The same for 64-bit values.
const LONG: usize = 12;

impl Rule {
    /// Returns the maximum encoded size of the rule in bytes.
    pub fn wire_size(&self) -> usize {
        let Self {
            route,
            index: _,
            name,
            matches,
            filters,
            backends,
            timeouts: _,
            retry,
            failure,
        } = self;
        FIELD * 2
            + route_id(route)
            + optional(name.as_deref())
            + sum(matches, request_match)
            + sum(filters, filter)
            + sum(backends, weighted)
            + LONG * 2
            + retry.as_ref().map_or(0, self::retry)
            + optional(failure.as_deref())
    }

    /// Returns the regular expressions of the rule, including duplicates.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.matches.iter().flat_map(RequestMatch::patterns)
    }
}

impl RequestMatch {
    /// Returns the regular expressions of the conditions, including duplicates.
    pub fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        let path = match &self.path {
            Some(PathMatch::Regex(pattern)) => Some(pattern),
            _ => None,
        };
        let headers = self.headers.iter().map(|of| &of.value);
        let values = headers.chain(self.query.iter().map(|of| &of.value));
        let values = values.filter_map(|value| match value {
            ValueMatch::Regex(pattern) => Some(pattern),
            ValueMatch::Exact(_) => None,
        });
        path.into_iter().chain(values)
    }
}

impl AuthorizationPolicy {
    /// Returns the maximum encoded size of the policy in bytes.
    pub fn wire_size(&self) -> usize {
        let Self {
            id:
                PolicyId {
                    namespace,
                    name,
                    kind: _,
                },
            ports,
            effect,
        } = self;
        let tokens = match effect {
            PolicyEffect::Tokens(of) => authentication(of),
            PolicyEffect::Rules(..) | PolicyEffect::Invalid => 0,
        };
        FIELD * 2
            + optional(namespace.as_deref())
            + text(name)
            + FIELD * ports.len()
            + tokens
            + sum(self.rules(), AuthorizationRule::wire_size)
    }
}

impl AuthorizationRule {
    /// Returns the maximum encoded size of the rule in bytes.
    pub fn wire_size(&self) -> usize {
        let Self {
            sources,
            not_sources,
            ports,
            requests,
            not_requests,
        } = self;
        // Each kind of condition is a message with a list.
        FIELD * (1 + 2 * 5 + 1 + ports.len())
            + sum(sources.as_deref().unwrap_or_default(), source)
            + sum(not_sources, source)
            + sum(requests, request_match)
            + sum(not_requests, request_match)
    }
}

fn source(of: &SourceMatch) -> usize {
    FIELD * 2
        + match of {
            SourceMatch::Identity(identity) => {
                text(identity.trust_domain().as_str())
                    + text(identity.namespace())
                    + text(identity.account())
            }
            SourceMatch::Namespace(domain, namespace) => text(domain.as_str()) + text(namespace),
            SourceMatch::Network(network) => text(&network.to_string()),
            SourceMatch::Token(TokenMatch {
                issuer,
                subject,
                claims,
            }) => text(issuer) + optional(subject.as_deref()) + sum(claims, claim_match),
        }
}

fn claim_match(of: &ClaimMatch) -> usize {
    let ClaimMatch { name, values } = of;
    FIELD + text(name) + sum(values, |value| text(value))
}

fn authentication(of: &Authentication) -> usize {
    let Authentication {
        required: _,
        providers,
    } = of;
    FIELD * 2 + sum(providers, provider)
}

fn provider(of: &JwtProvider) -> usize {
    let JwtProvider {
        name,
        issuer,
        audiences,
        keys,
        locations,
        claim_headers,
        forward: _,
        clock_skew: _,
    } = of;
    let header =
        |ClaimHeader { claim, header }: &ClaimHeader| FIELD + text(claim) + text(header.as_str());
    FIELD * 3
        + text(name)
        + text(issuer)
        + sum(audiences, |audience| text(audience))
        + sum(keys, key)
        + sum(locations, location)
        + sum(claim_headers, header)
}

fn key(of: &JsonWebKey) -> usize {
    let JsonWebKey {
        id,
        algorithm: _,
        material,
    } = of;
    let bytes = match material {
        KeyMaterial::Rsa { modulus, exponent } => modulus.len() + exponent.len(),
        KeyMaterial::P256(of) | KeyMaterial::P384(of) | KeyMaterial::Ed25519(of) => of.len(),
    };
    FIELD * 5 + optional(id.as_deref()) + bytes
}

fn location(of: &TokenLocation) -> usize {
    FIELD * 2
        + match of {
            TokenLocation::Header { name, prefix } => text(name.as_str()) + text(prefix),
            TokenLocation::Query(name) | TokenLocation::Cookie(name) => text(name),
        }
}

impl ConnectionRule {
    /// Returns the maximum encoded size of the rule in bytes.
    pub fn wire_size(&self) -> usize {
        let Self {
            route,
            index: _,
            name,
            backends,
        } = self;
        FIELD * 2 + route_id(route) + optional(name.as_deref()) + sum(backends, weighted)
    }
}

impl TlsRule {
    /// Returns the maximum encoded size of the rule in bytes.
    pub fn wire_size(&self) -> usize {
        let Self { hostnames, rule } = self;
        FIELD + sum(hostnames, HostPattern::wire_size) + rule.wire_size()
    }
}

impl HostPattern {
    /// Returns the maximum encoded size of the name in bytes.
    pub fn wire_size(&self) -> usize {
        let text = match self {
            Self::Exact(text) | Self::Below(text) => text,
        };
        // Including the leading `*`.
        FIELD + 1 + text.len()
    }
}

impl ServerTls {
    /// Returns the maximum encoded size of certificates, keys and roots in bytes.
    pub fn wire_size(&self) -> usize {
        let Self {
            certificates,
            clients,
        } = self;
        let pair = |KeyPair { chain, key }: &KeyPair| FIELD * 3 + chain.len() + key.len();
        let clients = clients.as_ref();
        FIELD + sum(certificates, pair) + clients.map_or(0, |of| FIELD * 3 + of.roots.len())
    }
}

fn sum<T>(all: &[T], one: impl Fn(&T) -> usize) -> usize {
    all.iter().map(one).sum()
}

fn text(of: &str) -> usize {
    FIELD + of.len()
}

fn optional(of: Option<&str>) -> usize {
    of.map_or(0, text)
}

fn route_id(of: &RouteId) -> usize {
    let RouteId {
        kind: _,
        namespace,
        name,
    } = of;
    FIELD * 2 + text(namespace) + text(name)
}

fn service_port(of: &ServicePort) -> usize {
    let ServicePort { service, port: _ } = of;
    FIELD * 2 + text(&service.namespace) + text(&service.name)
}

fn request_match(of: &RequestMatch) -> usize {
    let RequestMatch {
        path,
        headers,
        query,
        method,
        invalid: _,
    } = of;
    let path = path.as_ref().map_or(0, |path| {
        FIELD
            + text(match path {
                PathMatch::Exact(text) | PathMatch::Prefix(text) | PathMatch::GrpcMethod(text) => {
                    text
                }
                PathMatch::Regex(pattern) => pattern.as_str(),
            })
    });
    let header = |HeaderMatch { name, value }: &HeaderMatch| value_match(name.as_str(), value);
    let parameter = |QueryMatch { name, value }: &QueryMatch| value_match(name, value);
    FIELD * 2
        + path
        + sum(headers, header)
        + sum(query, parameter)
        + optional(method.as_ref().map(http::Method::as_str))
}

fn value_match(name: &str, value: &ValueMatch) -> usize {
    let value = match value {
        ValueMatch::Exact(value) => value,
        ValueMatch::Regex(pattern) => pattern.as_str(),
    };
    FIELD + text(name) + text(value)
}

fn filter(of: &Filter) -> usize {
    FIELD * 2
        + match of {
            Filter::RequestHeaders(edit) | Filter::ResponseHeaders(edit) => header_edit(edit),
            Filter::Redirect(Redirect {
                scheme,
                host,
                port: _,
                path,
                code: _,
            }) => {
                FIELD * 2
                    + optional(scheme.as_deref())
                    + optional(host.as_deref())
                    + path.as_ref().map_or(0, path_edit)
            }
            Filter::Rewrite(Rewrite { host, path }) => {
                host.as_ref().map_or(0, |host| FIELD + host.len())
                    + path.as_ref().map_or(0, path_edit)
            }
            Filter::Mirror(Mirror { to, fraction: _ }) => FIELD * 3 + service_port(to),
            Filter::Cors(of) => cors(of),
            Filter::ExternalAuth(of) => of.wire_size(),
            Filter::Fault(of) => fault(of),
        }
}

fn fault(of: &FaultInjection) -> usize {
    let FaultInjection {
        filter,
        header,
        delay: _,
        abort: _,
    } = of;
    let header = header.as_ref().map_or(0, |FaultHeader { name, value }| {
        FIELD * 2 + text(name.as_str()) + optional(value.as_deref())
    });
    text(filter) + header + FIELD * 8
}

impl ExternalAuth {
    /// Returns the maximum encoded size of the filter in bytes.
    pub fn wire_size(&self) -> usize {
        let Self {
            server,
            protocol,
            body_limit: _,
        } = self;
        let names = |of: &[http::HeaderName]| sum(of, |name| text(name.as_str()));
        let protocol = match protocol {
            ExternalAuthProtocol::Http(HttpAuth {
                path_prefix,
                request_headers,
                response_headers,
            }) => text(path_prefix) + names(request_headers) + names(response_headers.names()),
            ExternalAuthProtocol::Grpc { request_headers } => names(request_headers.names()),
        };
        let server = match server {
            Ok(id) => service_port(id),
            Err(reason) => text(reason),
        };
        FIELD * 3 + server + protocol
    }
}

fn header_edit(of: &HeaderEdit) -> usize {
    let HeaderEdit { set, add, remove } = of;
    let header = |(name, value): &(http::HeaderName, http::HeaderValue)| {
        FIELD * 2 + text(name.as_str()) + lossy(value)
    };
    sum(set, header) + sum(add, header) + sum(remove, |name| text(name.as_str()))
}

/// A value that is not UTF-8 grows by lossy conversion.
fn lossy(of: &http::HeaderValue) -> usize {
    match std::str::from_utf8(of.as_bytes()) {
        Ok(text) => text.len(),
        Err(_) => 3 * of.len(),
    }
}

fn path_edit(of: &PathEdit) -> usize {
    let (PathEdit::Full(path) | PathEdit::Prefix(path)) = of;
    FIELD + text(path)
}

fn cors(of: &Cors) -> usize {
    let Cors {
        origins,
        credentials: _,
        methods,
        headers,
        expose,
        max_age: _,
    } = of;
    let allowed = |of: &Allowed| match of {
        Allowed::Unsaid => 0,
        Allowed::Any => FIELD + 1,
        Allowed::These(these) => FIELD + lossy(these),
    };
    FIELD * 2
        + sum(origins, |origin| text(&origin.to_string()))
        + allowed(methods)
        + allowed(headers)
        + allowed(expose)
}

fn retry(of: &Retry) -> usize {
    let Retry {
        codes,
        attempts: _,
        backoff: _,
    } = of;
    FIELD * 3 + LONG + FIELD * codes.len()
}

fn weighted(of: &WeightedBackend) -> usize {
    let WeightedBackend {
        weight: _,
        backend,
        filters,
    } = of;
    let backend = match backend {
        Backend::Service(id) => service_port(id),
        Backend::Invalid(reason) => text(reason),
    };
    FIELD * 2 + backend + sum(filters, filter)
}

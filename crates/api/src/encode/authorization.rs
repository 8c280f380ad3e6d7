//! Encodes the policies that a proxy enforces.

use weft_ir::{
    Authorization, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Authorizations,
    DefaultAuthorization, PolicyEffect, PolicyId, PolicyKind, ResourceKey, RouteSection,
    SourceMatch,
};

use super::authentication::{authentication, token_match};
use super::rules::{request_match, route_id};
use super::{identity, resource};
use crate::proto;
use proto::authorization_condition::Kind;
use proto::resource::Body;

/// Encodes the policies that a proxy enforces.
pub fn authorizations(of: &Authorizations) -> proto::Resource {
    let Authorizations {
        workload,
        listeners,
        routes,
    } = of;
    let listener =
        |((port, listener), of): &((u16, String), Authorization)| proto::ListenerAuthorization {
            port: u32::from(*port),
            listener: listener.clone(),
            authorization: Some(authorization(of)),
        };
    let route = |(RouteSection { route, rule }, of): &(RouteSection, Authorization)| {
        proto::RouteAuthorization {
            route: Some(route_id(route)),
            rule: rule.clone().unwrap_or_default(),
            authorization: Some(authorization(of)),
        }
    };
    let body = Body::Authorization(proto::Authorizations {
        workload: Some(authorization(workload)),
        listeners: listeners.iter().map(listener).collect(),
        routes: routes.iter().map(route).collect(),
    });
    resource(&ResourceKey::Authorization, body)
}

fn authorization(of: &Authorization) -> proto::Authorization {
    use proto::authorization::Default;
    let Authorization { policies, default } = of;
    let default = match default {
        DefaultAuthorization::Allow => Default::Allow,
        DefaultAuthorization::Mesh => Default::Mesh,
        DefaultAuthorization::Deny => Default::Deny,
    };
    proto::Authorization {
        policies: policies.iter().map(|of| policy(of)).collect(),
        default: default.into(),
    }
}

fn policy(of: &AuthorizationPolicy) -> proto::AuthorizationPolicy {
    use proto::authorization_policy::{Action, Kind};
    let AuthorizationPolicy {
        id: PolicyId {
            namespace,
            name,
            kind,
        },
        ports,
        effect,
    } = of;
    let (action, rules) = match effect {
        PolicyEffect::Invalid => (Action::Invalid, &[][..]),
        PolicyEffect::Tokens(_) => (Action::Authenticate, &[][..]),
        PolicyEffect::Rules(AuthorizationAction::Allow, rules) => (Action::Allow, &rules[..]),
        PolicyEffect::Rules(AuthorizationAction::Deny, rules) => (Action::Deny, &rules[..]),
        PolicyEffect::Rules(AuthorizationAction::Audit, rules) => (Action::Audit, &rules[..]),
    };
    let kind = match kind {
        PolicyKind::Authorization => Kind::Authorization,
        PolicyKind::Authentication => Kind::Authentication,
    };
    proto::AuthorizationPolicy {
        namespace: namespace.as_deref().unwrap_or_default().to_owned(),
        name: name.to_string(),
        ports: numbers(ports),
        action: action.into(),
        rules: rules.iter().map(rule).collect(),
        kind: kind.into(),
        tokens: of.tokens().map(|of| authentication(of)),
    }
}

/// Conditions that every client, port or request meets are left out.
fn rule(of: &AuthorizationRule) -> proto::AuthorizationRule {
    let AuthorizationRule {
        sources,
        not_sources,
        ports,
        requests,
        not_requests,
    } = of;
    let some = |is_empty: bool, kind: Kind| (!is_empty).then_some(kind);
    let requests_of = |of: &[weft_ir::RequestMatch]| proto::AuthorizationRequests {
        requests: of.iter().map(request_match).collect(),
    };
    let kinds = [
        sources
            .as_deref()
            .map(|of| Kind::Sources(self::sources(of))),
        some(
            not_sources.is_empty(),
            Kind::NotSources(self::sources(not_sources)),
        ),
        some(
            ports.is_empty(),
            Kind::Ports(proto::AuthorizationPorts {
                ports: numbers(ports),
            }),
        ),
        some(requests.is_empty(), Kind::Requests(requests_of(requests))),
        some(
            not_requests.is_empty(),
            Kind::NotRequests(requests_of(not_requests)),
        ),
    ];
    let condition = |kind| proto::AuthorizationCondition { kind: Some(kind) };
    proto::AuthorizationRule {
        conditions: kinds.into_iter().flatten().map(condition).collect(),
    }
}

fn sources(of: &[SourceMatch]) -> proto::AuthorizationSources {
    use proto::authorization_source::Kind;
    let source = |of: &SourceMatch| proto::AuthorizationSource {
        kind: Some(match of {
            SourceMatch::Identity(of) => Kind::Identity(identity(of)),
            SourceMatch::Namespace(domain, namespace) => Kind::Namespace(proto::Identity {
                trust_domain: domain.to_string(),
                namespace: namespace.to_string(),
                account: String::new(),
            }),
            SourceMatch::Network(network) => Kind::Cidr(network.to_string()),
            SourceMatch::Token(of) => Kind::Token(token_match(of)),
        }),
    };
    proto::AuthorizationSources {
        sources: of.iter().map(source).collect(),
    }
}

fn numbers(ports: &[u16]) -> Vec<u32> {
    ports.iter().map(|port| u32::from(*port)).collect()
}

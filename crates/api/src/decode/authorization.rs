//! Decodes the policies that a proxy enforces. Whatever is not known is rejected: without it, a
//! policy would allow more.

use std::sync::Arc;

use weft_ir::{
    Authorization, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Authorizations,
    DefaultAuthorization, PolicyEffect, PolicyId, PolicyKind, RouteSection, SourceMatch,
    TrustDomain,
};

use super::authentication::{authentication, token_match};
use super::rules::{request_match, route_id};
use super::{Context, DecodeError, Decoded, all, identity, invalid};
use crate::proto;

pub(super) fn authorizations(
    wire: proto::Authorizations,
    context: &Context<'_>,
) -> Decoded<Authorizations> {
    let proto::Authorizations {
        workload,
        listeners,
        routes,
    } = wire;
    let listener = |wire: proto::ListenerAuthorization| {
        let of = authorization(wire.authorization, context)?;
        Ok(((port(wire.port)?, wire.listener), of))
    };
    let route = |wire: proto::RouteAuthorization| {
        let section = RouteSection {
            route: route_id(
                wire.route
                    .ok_or(DecodeError::Absent("authorization.route"))?,
            )?,
            rule: (!wire.rule.is_empty()).then_some(wire.rule),
        };
        Ok((section, authorization(wire.authorization, context)?))
    };
    Ok(Authorizations {
        workload: authorization(workload, context)?,
        listeners: all(listeners, listener)?,
        routes: all(routes, route)?,
    })
}

fn authorization(
    wire: Option<proto::Authorization>,
    context: &Context<'_>,
) -> Decoded<Authorization> {
    use proto::authorization::Default;
    let wire = wire.ok_or(DecodeError::Absent("authorization"))?;
    let default = match wire.default() {
        Default::Allow => DefaultAuthorization::Allow,
        Default::Mesh => DefaultAuthorization::Mesh,
        Default::Deny => DefaultAuthorization::Deny,
        Default::Unspecified => return Err(DecodeError::Absent("authorization.default")),
    };
    Ok(Authorization {
        policies: all(wire.policies, |wire| policy(wire, context).map(Arc::new))?,
        default,
    })
}

fn policy(wire: proto::AuthorizationPolicy, context: &Context<'_>) -> Decoded<AuthorizationPolicy> {
    use proto::authorization_policy::{Action, Kind};
    let action = wire.action();
    let kind = match Kind::try_from(wire.kind) {
        Ok(Kind::Authorization) => PolicyKind::Authorization,
        Ok(Kind::Authentication) => PolicyKind::Authentication,
        Err(error) => return Err(invalid("policy.kind")(&error)),
    };
    let proto::AuthorizationPolicy {
        namespace,
        name,
        ports,
        action: _,
        rules,
        kind: _,
        tokens,
    } = wire;
    let rules = |action| {
        let rules = all(rules, |wire| rule(wire, context))?;
        Ok(PolicyEffect::Rules(action, rules))
    };
    let effect = match action {
        Action::Allow => rules(AuthorizationAction::Allow)?,
        Action::Deny => rules(AuthorizationAction::Deny)?,
        Action::Audit => rules(AuthorizationAction::Audit)?,
        Action::Invalid => PolicyEffect::Invalid,
        Action::Authenticate => {
            let tokens = tokens.ok_or(DecodeError::Absent("policy.tokens"))?;
            PolicyEffect::Tokens(Arc::new(authentication(tokens)?))
        }
        Action::Unspecified => return Err(DecodeError::Absent("policy.action")),
    };
    Ok(AuthorizationPolicy {
        id: PolicyId {
            namespace: (!namespace.is_empty()).then(|| namespace.into()),
            name: name.into(),
            kind,
        },
        ports: all(ports, port)?,
        effect,
    })
}

fn rule(wire: proto::AuthorizationRule, context: &Context<'_>) -> Decoded<AuthorizationRule> {
    use proto::authorization_condition::Kind;
    let mut rule = AuthorizationRule::default();
    let requests = |wire: proto::AuthorizationRequests| {
        all(wire.requests, |wire| request_match(wire, context))
    };
    for condition in wire.conditions {
        let kind = condition
            .kind
            .ok_or(DecodeError::Absent("rule.condition"))?;
        match kind {
            Kind::Sources(wire) => rule.sources = Some(all(wire.sources, source)?),
            Kind::NotSources(wire) => rule.not_sources = all(wire.sources, source)?,
            Kind::Ports(wire) => rule.ports = all(wire.ports, port)?,
            Kind::Requests(wire) => rule.requests = requests(wire)?,
            Kind::NotRequests(wire) => rule.not_requests = requests(wire)?,
        }
    }
    Ok(rule)
}

fn source(wire: proto::AuthorizationSource) -> Decoded<SourceMatch> {
    use proto::authorization_source::Kind;
    Ok(match wire.kind.ok_or(DecodeError::Absent("rule.source"))? {
        Kind::Identity(wire) => SourceMatch::Identity(identity(wire)?),
        Kind::Namespace(wire) => {
            let domain = TrustDomain::new(&wire.trust_domain)
                .map_err(|error| invalid("rule.source")(&error))?;
            SourceMatch::Namespace(domain, wire.namespace.into())
        }
        Kind::Cidr(text) => {
            let network = text
                .parse()
                .map_err(|error| invalid("rule.source")(&error))?;
            SourceMatch::Network(network)
        }
        Kind::Token(wire) => SourceMatch::Token(token_match(wire)),
    })
}

fn port(wire: u32) -> Decoded<u16> {
    let port = u16::try_from(wire).ok().filter(|port| *port != 0);
    port.ok_or_else(|| invalid("policy.port")(&format_args!("{wire}: not a port")))
}

//! The decision on a connection or a request.
//!
//! What depends on the connection alone (client, port) is decided once for each connection
//! ([`Authorizer::connection`]); what is left for its requests are the conditions on requests of
//! the rules that can still match. So the cost of a request does not depend on the number of
//! policies that concern other clients or other ports.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, Method, Uri};

use super::request::{Facts, Headers, Met};
use super::{
    Authorization, AuthorizationAction, AuthorizationPolicy, AuthorizationRule,
    DefaultAuthorization, PolicyEffect, SourceMatch,
};
use crate::authentication::Claims;
use crate::identity::{Identity, TrustDomain};

/// The client of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a> {
    /// Proven by its certificate; `None` in plain text, and for clients outside the mesh.
    pub identity: Option<&'a Identity>,
    /// Its address.
    pub address: IpAddr,
}

/// The decision on a connection or a request. Positions are those of [`Authorization::policies`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is allowed, by the policy at this position if by one.
    Allowed(Option<usize>),
    /// It is denied.
    Denied(Denial),
}

/// Why something is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// By the policy at this position.
    Policy(usize),
    /// None of the `ALLOW` policies matches.
    NotAllowed,
    /// By the default, which the client does not meet.
    Default,
}

/// Decides by the policies of one target.
#[derive(Debug)]
pub struct Authorizer {
    authorization: Authorization,
    /// Positions of policies that deny everything.
    invalid: Vec<usize>,
    /// Positions of policies on tokens.
    tokens: Vec<usize>,
    by_identity: HashMap<Identity, Vec<RuleRef>>,
    by_namespace: HashMap<(TrustDomain, Arc<str>), Vec<RuleRef>>,
    /// Rules with other conditions on the client, or none.
    others: Vec<RuleRef>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RuleRef {
    policy: usize,
    rule: usize,
}

impl Authorizer {
    /// Indexes the rules by their sources.
    pub fn new(authorization: Authorization) -> Self {
        let mut authorizer = Self {
            authorization: Authorization::default(),
            invalid: Vec::new(),
            tokens: Vec::new(),
            by_identity: HashMap::new(),
            by_namespace: HashMap::new(),
            others: Vec::new(),
        };
        for (policy, of) in authorization.policies.iter().enumerate() {
            match &of.effect {
                PolicyEffect::Invalid => authorizer.invalid.push(policy),
                PolicyEffect::Tokens(_) => authorizer.tokens.push(policy),
                PolicyEffect::Rules(_, rules) => {
                    for (rule, of) in rules.iter().enumerate() {
                        authorizer.index(of, RuleRef { policy, rule });
                    }
                }
            }
        }
        authorizer.authorization = authorization;
        authorizer
    }

    fn index(&mut self, rule: &AuthorizationRule, at: RuleRef) {
        let Some(sources) = &rule.sources else {
            self.others.push(at);
            return;
        };
        for source in sources {
            let list = match source {
                SourceMatch::Identity(identity) => {
                    self.by_identity.entry(identity.clone()).or_default()
                }
                SourceMatch::Namespace(domain, namespace) => {
                    let key = (domain.clone(), namespace.clone());
                    self.by_namespace.entry(key).or_default()
                }
                SourceMatch::Network(_) | SourceMatch::Token(_) => &mut self.others,
            };
            if list.last() != Some(&at) {
                list.push(at);
            }
        }
    }

    /// Returns the policies, for what positions refer to.
    pub fn policies(&self) -> &[Arc<AuthorizationPolicy>] {
        &self.authorization.policies
    }

    /// Decides what depends on the client and the port alone.
    pub fn connection(self: &Arc<Self>, peer: Peer<'_>, port: u16) -> ConnectionAuthorization {
        let mut tiers = [Tier::default(), Tier::default()];
        for (position, policy) in self.policies().iter().enumerate() {
            if let PolicyEffect::Rules(AuthorizationAction::Allow, _) = policy.effect
                && policy.applies_to(port)
            {
                tiers[tier(self.policy(position))].restricted = true;
            }
        }
        let mut rules = self.others.clone();
        if let Some(identity) = peer.identity {
            let namespace = (
                identity.trust_domain().clone(),
                Arc::from(identity.namespace()),
            );
            let of_identity = self.by_identity.get(identity).into_iter().flatten();
            let of_namespace = self.by_namespace.get(&namespace).into_iter().flatten();
            rules.extend(of_identity.chain(of_namespace));
        }
        rules.sort_unstable();
        rules.dedup();
        for at in rules {
            let policy = self.policy(at.policy);
            let PolicyEffect::Rules(action, of) = &policy.effect else {
                continue;
            };
            let rule = &of[at.rule];
            let at_port =
                policy.applies_to(port) && (rule.ports.is_empty() || rule.ports.contains(&port));
            if let Some((needs_token, excludes_tokens)) = admits(rule, peer).filter(|_| at_port) {
                tiers[tier(policy)].rules.push(Candidate {
                    action: *action,
                    at,
                    needs_token,
                    excludes_tokens,
                });
            }
        }
        for position in &self.invalid {
            let policy = self.policy(*position);
            if policy.applies_to(port) {
                tiers[tier(policy)].invalid.get_or_insert(*position);
            }
        }
        let mut tokens = self.tokens.iter().copied();
        let tokens = tokens.find(|position| self.policy(*position).applies_to(port));
        let restricted = tiers.iter().any(|tier| tier.restricted);
        let admitted = restricted
            || match self.authorization.default {
                DefaultAuthorization::Allow => true,
                DefaultAuthorization::Mesh => peer.identity.is_some(),
                DefaultAuthorization::Deny => false,
            };
        ConnectionAuthorization {
            authorizer: Arc::clone(self),
            tiers,
            tokens,
            admitted,
        }
    }

    fn policy(&self, position: usize) -> &AuthorizationPolicy {
        &self.authorization.policies[position]
    }
}

/// Policies of the cluster are decided before those of namespaces.
fn tier(policy: &AuthorizationPolicy) -> usize {
    usize::from(policy.id.namespace.is_some())
}

/// Returns `None` if the client does not meet the rule's sources, whatever its requests; otherwise
/// whether a token has to be one of the sources, and whether one must not be.
fn admits(rule: &AuthorizationRule, peer: Peer<'_>) -> Option<(bool, bool)> {
    let is_token = |source: &SourceMatch| matches!(source, SourceMatch::Token(_));
    let is = |source: &SourceMatch| match source {
        SourceMatch::Identity(identity) => peer.identity == Some(identity),
        SourceMatch::Namespace(domain, namespace) => peer
            .identity
            .is_some_and(|of| of.trust_domain() == domain && of.namespace() == &**namespace),
        SourceMatch::Network(network) => network.contains(&peer.address.to_canonical()),
        SourceMatch::Token(_) => false,
    };
    if rule.not_sources.iter().any(is) {
        return None;
    }
    let admitted = match &rule.sources {
        None => Some(false),
        Some(sources) if sources.iter().any(is) => Some(false),
        Some(sources) => sources.iter().any(is_token).then_some(true),
    };
    admitted.map(|needs_token| (needs_token, rule.not_sources.iter().any(is_token)))
}

/// A rule that can match requests of the client.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    action: AuthorizationAction,
    at: RuleRef,
    /// A token has to be one of its sources.
    needs_token: bool,
    /// It has tokens among the clients that it does not match.
    excludes_tokens: bool,
}

impl Candidate {
    fn reads_tokens(self) -> bool {
        self.needs_token || self.excludes_tokens
    }

    /// Without a verified token, no source is met that is one.
    fn meets_tokens(self, rule: &AuthorizationRule, tokens: &[Arc<Claims>]) -> bool {
        let is = |source: &SourceMatch| match source {
            SourceMatch::Token(wanted) => tokens.iter().any(|token| wanted.is_met(token)),
            _ => false,
        };
        (!self.needs_token || rule.sources.iter().flatten().any(is))
            && !(self.excludes_tokens && rule.not_sources.iter().any(is))
    }
}

/// The policies of the cluster, or those of the namespace, as far as they concern a connection.
#[derive(Debug, Default)]
struct Tier {
    /// The first invalid policy.
    invalid: Option<usize>,
    /// Whether an `ALLOW` policy has to match.
    restricted: bool,
    /// Rules whose conditions on the connection are met.
    rules: Vec<Candidate>,
}

/// Decides on a connection, and on its requests.
#[derive(Debug)]
pub struct ConnectionAuthorization {
    authorizer: Arc<Authorizer>,
    tiers: [Tier; 2],
    /// The first policy on tokens.
    tokens: Option<usize>,
    /// Whether an `ALLOW` policy exists, or the default allows the client.
    admitted: bool,
}

impl ConnectionAuthorization {
    /// Decides on a connection whose bytes are not read. Rules with conditions on requests, and on
    /// their tokens, cannot be decided: those that deny or audit match, those that allow do not.
    /// A policy on tokens denies it. `audit` gets the positions of the `AUDIT` policies that match.
    pub fn bytes(&self, audit: impl FnMut(usize)) -> Decision {
        if let Some(position) = self.tokens {
            return Decision::Denied(Denial::Policy(position));
        }
        self.decide(audit, |candidate, rule| {
            match candidate.reads_tokens() || rule.reads_requests() {
                true => Met::Unknown,
                false => Met::Yes,
            }
        })
    }

    /// Decides on a request with these verified tokens. The path must be in its normal form, as it
    /// is forwarded.
    pub fn request(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        tokens: &[Arc<Claims>],
        audit: impl FnMut(usize),
    ) -> Decision {
        let facts = Facts::new(method, uri, Headers::Known(headers));
        self.decide(audit, |candidate, rule| {
            match candidate.meets_tokens(rule, tokens) {
                true => facts.meets(&rule.requests, &rule.not_requests),
                false => Met::No,
            }
        })
    }

    /// Decides again on a request that was allowed, and whose headers are no longer known: an
    /// `ALLOW` rule is taken to match them, and other rules not to.
    pub fn request_in_flight(
        &self,
        method: &Method,
        uri: &Uri,
        tokens: &[Arc<Claims>],
    ) -> Decision {
        let facts = |rule_matches| Facts::new(method, uri, Headers::Assumed { rule_matches });
        let (allowing, others) = (facts(true), facts(false));
        self.decide(
            |_| {},
            |candidate, rule| {
                if !candidate.meets_tokens(rule, tokens) {
                    return Met::No;
                }
                let facts = match candidate.action {
                    AuthorizationAction::Allow => &allowing,
                    AuthorizationAction::Deny | AuthorizationAction::Audit => &others,
                };
                facts.meets(&rule.requests, &rule.not_requests)
            },
        )
    }

    /// Returns true if no request on the connection can be allowed.
    pub fn denies_all(&self) -> bool {
        let unconditional = |of: &Candidate| {
            of.action == AuthorizationAction::Deny
                && !of.reads_tokens()
                && !self.rule(of.at).reads_requests()
        };
        let allows = |of: &Candidate| of.action == AuthorizationAction::Allow;
        !self.admitted
            || self.tiers.iter().any(|tier| {
                tier.invalid.is_some()
                    || tier.rules.iter().any(unconditional)
                    || (tier.restricted && !tier.rules.iter().any(allows))
            })
    }

    /// Returns true if a rule that concerns the connection has a condition on paths: they have to
    /// be decided and forwarded in their normal form.
    pub fn reads_paths(&self) -> bool {
        let mut rules = self.tiers.iter().flat_map(|tier| &tier.rules);
        rules.any(|of| self.rule(of.at).reads_paths())
    }

    #[cfg(test)]
    pub(super) fn rules(&self) -> usize {
        self.tiers.iter().map(|tier| tier.rules.len()).sum()
    }

    fn decide(
        &self,
        mut audit: impl FnMut(usize),
        met: impl Fn(Candidate, &AuthorizationRule) -> Met,
    ) -> Decision {
        let mut allowed_by = None;
        for tier in &self.tiers {
            match self.decide_tier(tier, &mut audit, &met) {
                Decision::Allowed(by) => allowed_by = by.or(allowed_by),
                denied @ Decision::Denied(_) => return denied,
            }
        }
        match self.admitted {
            true => Decision::Allowed(allowed_by),
            false => Decision::Denied(Denial::Default),
        }
    }

    fn decide_tier(
        &self,
        tier: &Tier,
        audit: &mut impl FnMut(usize),
        met: &impl Fn(Candidate, &AuthorizationRule) -> Met,
    ) -> Decision {
        if let Some(position) = tier.invalid {
            return Decision::Denied(Denial::Policy(position));
        }
        let (mut denied_by, mut allowed_by, mut audited) = (None, None, None);
        for candidate in &tier.rules {
            let Candidate { action, at, .. } = *candidate;
            match action {
                AuthorizationAction::Deny if denied_by.is_none() => {
                    let denies = met(*candidate, self.rule(at)) != Met::No;
                    denied_by = denies.then_some(at.policy);
                }
                AuthorizationAction::Allow if allowed_by.is_none() => {
                    let allows = met(*candidate, self.rule(at)) == Met::Yes;
                    allowed_by = allows.then_some(at.policy);
                }
                // Rules are in the order of policies: each is reported once.
                AuthorizationAction::Audit
                    if audited != Some(at.policy) && met(*candidate, self.rule(at)) != Met::No =>
                {
                    audited = Some(at.policy);
                    audit(at.policy);
                }
                _ => {}
            }
        }
        match (denied_by, allowed_by) {
            (Some(position), _) => Decision::Denied(Denial::Policy(position)),
            (None, None) if tier.restricted => Decision::Denied(Denial::NotAllowed),
            (None, by) => Decision::Allowed(by),
        }
    }

    fn rule(&self, at: RuleRef) -> &AuthorizationRule {
        &self.authorizer.policy(at.policy).rules()[at.rule]
    }
}

//! The policies of one target, with their counters.

use std::collections::HashMap;
use std::sync::Arc;

use weft_ir::{
    Authorization, AuthorizationRule, Authorizer, Decision, DefaultAuthorization, Denial, PolicyId,
};

use http::request;

use super::verdict::{Reason, Verdict};
use crate::authentication::{Authenticator, Authenticators, TokenError, Verified};
use crate::telemetry::authorization::{AuthorizationDecision, DecisionCounts};

/// The policies of a pod, a listener or a route.
pub(super) struct Target {
    pub(super) authorizer: Arc<Authorizer>,
    /// In the order of the policies.
    counts: Vec<Arc<DecisionCounts>>,
    /// Counts decisions by no policy.
    unnamed: Arc<DecisionCounts>,
    pub(super) reads_paths: bool,
    /// What is to be enforced is not known.
    closed: bool,
    /// The policies on tokens, with their positions.
    tokens: Vec<(usize, Arc<Authenticator>)>,
}

/// What targets are made of, beside their policies.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) counts: &'a HashMap<PolicyId, Arc<DecisionCounts>>,
    pub(super) unnamed: &'a Arc<DecisionCounts>,
    pub(super) authenticators: &'a Authenticators,
}

impl Target {
    /// Returns `None` if everything is allowed.
    pub(super) fn of(of: &Authorization, parts: Parts<'_>) -> Option<Self> {
        let Parts {
            counts,
            unnamed,
            authenticators,
        } = parts;
        if of.policies.is_empty() && of.default == DefaultAuthorization::Allow {
            return None;
        }
        let count = |id: &PolicyId| counts.get(id).cloned().unwrap_or_default();
        let mut rules = of.policies.iter().flat_map(|policy| policy.rules());
        let reads_paths = rules.any(AuthorizationRule::reads_paths);
        let tokens = of
            .policies
            .iter()
            .enumerate()
            .filter_map(|(position, policy)| {
                Some((position, authenticators.get(policy.tokens()?)))
            });
        Some(Self {
            tokens: tokens.collect(),
            counts: of.policies.iter().map(|policy| count(&policy.id)).collect(),
            authorizer: Arc::new(Authorizer::new(of.clone())),
            unnamed: unnamed.clone(),
            reads_paths,
            closed: false,
        })
    }

    /// Denies everything.
    pub(super) fn closed(unnamed: &Arc<DecisionCounts>) -> Self {
        let nobody = Authorization {
            policies: Vec::new(),
            default: DefaultAuthorization::Deny,
        };
        Self {
            authorizer: Arc::new(Authorizer::new(nobody)),
            counts: Vec::new(),
            unnamed: unnamed.clone(),
            reads_paths: false,
            closed: true,
            tokens: Vec::new(),
        }
    }

    /// Verifies the tokens of a request to the port, by each policy that wants one. `verified` gets
    /// those that are valid. Returns why the request is refused, if it is.
    pub(super) fn authenticate(
        &self,
        port: u16,
        head: &mut request::Parts,
        mut verified: impl FnMut(&Arc<Authenticator>, Verified),
    ) -> Option<Verdict> {
        for (position, authenticator) in &self.tokens {
            let policy = self.authorizer.policies().get(*position)?;
            if !policy.applies_to(port) {
                continue;
            }
            match authenticator.authenticate(head) {
                Ok(token) => {
                    self.count(Some(*position), AuthorizationDecision::Allowed);
                    token.into_iter().for_each(|of| verified(authenticator, of));
                }
                Err(error) => return Some(self.unauthenticated(*position, error)),
            }
        }
        None
    }

    fn unauthenticated(&self, position: usize, error: TokenError) -> Verdict {
        self.count(Some(position), AuthorizationDecision::Denied);
        let policy = self.authorizer.policies().get(position).cloned();
        Verdict {
            decision: AuthorizationDecision::Denied,
            reason: policy.map_or(Reason::Unknown, |policy| Reason::Token(policy, error)),
        }
    }

    /// Counts that an `AUDIT` policy matched.
    pub(super) fn count_audited(&self, position: usize) {
        self.count(Some(position), AuthorizationDecision::Audited);
    }

    /// Counts the decision, and returns its verdict. `audited`: the first `AUDIT` policy
    /// that matched.
    pub(super) fn conclude(&self, decision: Decision, audited: Option<usize>) -> Verdict {
        let (decision, reason) = match decision {
            Decision::Allowed(by) => {
                self.count(by, AuthorizationDecision::Allowed);
                match audited {
                    Some(position) => (AuthorizationDecision::Audited, self.policy(position)),
                    None => {
                        let by = by.map_or(Reason::None, |position| self.policy(position));
                        (AuthorizationDecision::Allowed, by)
                    }
                }
            }
            Decision::Denied(denial) => {
                let (by, reason) = match denial {
                    Denial::Policy(position) => (Some(position), self.policy(position)),
                    Denial::NotAllowed => (None, Reason::NotAllowed),
                    Denial::Default if self.closed => (None, Reason::Unknown),
                    Denial::Default => (None, Reason::Default),
                };
                self.count(by, AuthorizationDecision::Denied);
                (AuthorizationDecision::Denied, reason)
            }
        };
        Verdict { decision, reason }
    }

    fn count(&self, by: Option<usize>, decision: AuthorizationDecision) {
        let of_policy = by.and_then(|position| self.counts.get(position));
        of_policy.unwrap_or(&self.unnamed).count(decision);
    }

    fn policy(&self, position: usize) -> Reason {
        let policy = self.authorizer.policies().get(position);
        policy.map_or(Reason::None, |policy| Reason::Policy(policy.clone()))
    }
}

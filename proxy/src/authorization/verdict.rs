//! What the response, the log and metrics say of a decision.

use std::fmt;
use std::sync::Arc;

use weft_ir::{AuthorizationPolicy, PolicyEffect, PolicyId};

use crate::authentication::TokenError;
use crate::telemetry::authorization::AuthorizationDecision;

/// A decision, and its reason.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub decision: AuthorizationDecision,
    pub reason: Reason,
}

/// Why something is allowed or denied.
#[derive(Clone, Debug)]
pub enum Reason {
    Policy(Arc<AuthorizationPolicy>),
    /// The policy refuses the token of the request, or wants one.
    Token(Arc<AuthorizationPolicy>, TokenError),
    /// It is allowed, and by no policy.
    None,
    /// None of the policies that allow matches.
    NotAllowed,
    /// The default denies the client.
    Default,
    /// The policies could not be read.
    Unknown,
}

impl Verdict {
    pub fn is_denied(&self) -> bool {
        self.decision == AuthorizationDecision::Denied
    }

    /// Returns why the token of the request is refused, if that is the reason.
    pub fn token_error(&self) -> Option<TokenError> {
        match &self.reason {
            Reason::Token(_, error) => Some(*error),
            _ => None,
        }
    }

    /// Returns the policy that decided.
    pub fn policy(&self) -> Option<&PolicyId> {
        match &self.reason {
            Reason::Policy(policy) | Reason::Token(policy, _) => Some(&policy.id),
            Reason::None | Reason::NotAllowed | Reason::Default | Reason::Unknown => None,
        }
    }

    /// Returns the one of two decisions on the same request that says more: a denial before an
    /// audit, and either before a permission; of equal ones the later.
    pub(super) fn with(self, later: Self) -> Self {
        if self.decision > later.decision {
            self
        } else {
            later
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = self.decision.as_str();
        match &self.reason {
            Reason::Policy(policy) => {
                write!(f, "{decision} by {}", policy.id)?;
                match policy.effect {
                    PolicyEffect::Invalid => f.write_str(", which is invalid"),
                    PolicyEffect::Tokens(_) => {
                        f.write_str(", which takes requests with tokens only")
                    }
                    PolicyEffect::Rules(..) => Ok(()),
                }
            }
            Reason::Token(policy, error) => write!(f, "{decision} by {}: {error}", policy.id),
            Reason::None => write!(f, "{decision}: no policy applies"),
            Reason::NotAllowed => write!(f, "{decision}: no policy allows it"),
            Reason::Default => write!(f, "{decision} by the default, which no policy lifts"),
            Reason::Unknown => write!(f, "{decision}: the policies cannot be read"),
        }
    }
}

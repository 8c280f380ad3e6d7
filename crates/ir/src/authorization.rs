//! Who may call: the policies that one target enforces, those on tokens among them.
//!
//! Source: GEP-3779. [`crate::Authorizer`] decides by them, and the proxy verifies tokens before.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::authentication::{Authentication, TokenMatch};
use crate::identity::{Identity, TrustDomain};
use crate::route::{RequestMatch, RouteId};

mod decide;
mod request;
#[cfg(test)]
mod tests;

pub use decide::{Authorizer, ConnectionAuthorization, Decision, Denial, Peer};

/// The policies that one target enforces: a pod, a listener of a Gateway, or a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorization {
    /// Those of the cluster first; the oldest first, then by name.
    pub policies: Vec<Arc<AuthorizationPolicy>>,
    /// Applies to ports that no `ALLOW` policy targets.
    pub default: DefaultAuthorization,
}

/// What a proxy enforces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authorizations {
    /// At its own pod; of a sidecar alone.
    pub workload: Authorization,
    /// At listeners, by port and name of the listener; of a gateway alone.
    pub listeners: Vec<((u16, String), Authorization)>,
    /// At routes, after the listener's; of a gateway alone.
    pub routes: Vec<(RouteSection, Authorization)>,
}

impl Authorizations {
    /// Returns what is enforced at every target.
    pub fn targets(&self) -> impl Iterator<Item = &Authorization> {
        let Self {
            workload,
            listeners,
            routes,
        } = self;
        let listeners = listeners.iter().map(|(_, of)| of);
        let routes = routes.iter().map(|(_, of)| of);
        std::iter::once(workload).chain(listeners).chain(routes)
    }

    /// Returns the names of the policies; one that several targets enforce is repeated.
    pub fn policy_ids(&self) -> impl Iterator<Item = &PolicyId> {
        let policies = self.targets().flat_map(|of| &of.policies);
        policies.map(|policy| &policy.id)
    }
}

/// A route, or one of its rules by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteSection {
    /// The route.
    pub route: RouteId,
    /// The name of the rule; `None` means all rules.
    pub rule: Option<String>,
}

/// Decides where no `ALLOW` policy applies; the greater one is the stricter one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DefaultAuthorization {
    /// Every client may call.
    #[default]
    Allow,
    /// Clients with an identity of the mesh may call.
    Mesh,
    /// Nobody may call.
    Deny,
}

impl DefaultAuthorization {
    const ALL: [Self; 3] = [Self::Allow, Self::Mesh, Self::Deny];

    /// Returns the word that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Mesh => "mesh",
            Self::Deny => "deny",
        }
    }
}

/// The text is not a default.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not one of allow, mesh, deny")]
pub struct DefaultAuthorizationError;

impl FromStr for DefaultAuthorization {
    type Err = DefaultAuthorizationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|of| of.as_str() == text)
            .ok_or(DefaultAuthorizationError)
    }
}

/// The kinds of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// An AuthorizationPolicy, or a ClusterAuthorizationPolicy.
    Authorization,
    /// An AuthenticationPolicy.
    Authentication,
}

/// The name of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    /// `None` for a ClusterAuthorizationPolicy.
    pub namespace: Option<Arc<str>>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// Policies of different kinds may have the same name.
    pub kind: PolicyKind,
}

impl PolicyId {
    /// Returns the kind of the object.
    pub fn kind(&self) -> &'static str {
        match (self.kind, &self.namespace) {
            (PolicyKind::Authentication, _) => "AuthenticationPolicy",
            (PolicyKind::Authorization, Some(_)) => "AuthorizationPolicy",
            (PolicyKind::Authorization, None) => "ClusterAuthorizationPolicy",
        }
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            kind: _,
        } = self;
        match namespace {
            Some(namespace) => write!(f, "{} {namespace}/{name}", self.kind()),
            None => write!(f, "{} {name}", self.kind()),
        }
    }
}

/// A policy as one target enforces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// Its name.
    pub id: PolicyId,
    /// The ports that it applies to; empty means all.
    pub ports: Vec<u16>,
    /// What it does.
    pub effect: PolicyEffect,
}

impl AuthorizationPolicy {
    /// Returns its rules; an invalid policy has none.
    pub fn rules(&self) -> &[AuthorizationRule] {
        match &self.effect {
            PolicyEffect::Rules(_, rules) => rules,
            PolicyEffect::Tokens(_) | PolicyEffect::Invalid => &[],
        }
    }

    /// Returns the tokens that it accepts, if it is about tokens.
    pub fn tokens(&self) -> Option<&Arc<Authentication>> {
        match &self.effect {
            PolicyEffect::Tokens(of) => Some(of),
            PolicyEffect::Rules(..) | PolicyEffect::Invalid => None,
        }
    }

    /// Returns true if it applies to the port.
    pub fn applies_to(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }
}

/// What a policy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyEffect {
    /// Acts on requests that match one of the rules.
    Rules(AuthorizationAction, Vec<AuthorizationRule>),
    /// Refuses requests by their tokens, before any rule is asked; and every connection of bytes,
    /// which has none.
    Tokens(Arc<Authentication>),
    /// Denies every request, since the policy is invalid.
    Invalid,
}

/// What happens to requests that match a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthorizationAction {
    /// They are allowed; what no `ALLOW` policy of the cluster, or of the namespace, matches is
    /// denied.
    Allow,
    /// They are denied.
    Deny,
    /// They are reported.
    Audit,
}

/// Conditions that must all be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationRule {
    /// The client is one of these; `None` means any.
    pub sources: Option<Vec<SourceMatch>>,
    /// The client is none of these.
    pub not_sources: Vec<SourceMatch>,
    /// The port is one of these; empty means any.
    pub ports: Vec<u16>,
    /// The request matches one of these; empty means any.
    pub requests: Vec<RequestMatch>,
    /// The request matches none of these.
    pub not_requests: Vec<RequestMatch>,
}

impl AuthorizationRule {
    /// Returns its conditions on requests, wanted and unwanted ones.
    pub fn request_conditions(&self) -> impl Iterator<Item = &RequestMatch> {
        self.requests.iter().chain(&self.not_requests)
    }

    /// Returns true if it has conditions on requests.
    pub fn reads_requests(&self) -> bool {
        self.request_conditions().next().is_some()
    }

    /// Returns true if it has conditions on tokens.
    pub fn reads_tokens(&self) -> bool {
        let mut sources = self.sources.iter().flatten().chain(&self.not_sources);
        sources.any(|source| matches!(source, SourceMatch::Token(_)))
    }

    /// Returns true if it has conditions on paths.
    pub fn reads_paths(&self) -> bool {
        let mut conditions = self.request_conditions();
        conditions.any(|condition| condition.path.is_some())
    }
}

/// A condition on the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceMatch {
    /// Exactly this identity.
    Identity(Identity),
    /// Every identity of a namespace.
    Namespace(TrustDomain, Arc<str>),
    /// An address of this network.
    Network(IpNet),
    /// A verified token of the request.
    Token(TokenMatch),
}

//! That a request or a connection was allowed, until the policies change.

use std::net::IpAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{Method, Uri};
use weft_ir::{Claims, RouteSection};

use super::Compiled;
use super::client::ClientPolicies;
use super::target::Target;
use super::verdict::Verdict;
use crate::authentication::{Authenticator, Verified};

/// What was decided on a request or a connection of bytes, and what it takes to decide again. Of a
/// request that are client, port, method and URI: headers are decided on when it begins, and tokens
/// verified then.
#[derive(Clone)]
pub struct Permit {
    client: Arc<ClientPolicies>,
    address: IpAddr,
    scope: Scope,
    /// `None` for bytes.
    request: Option<(Method, Uri)>,
    /// Of the policies by which it was decided.
    pub(super) version: u64,
    /// `None` if no policy was in force.
    verdict: Option<Verdict>,
    /// Of a request with valid tokens.
    tokens: Option<Arc<Tokens>>,
}

/// The valid tokens of a request.
#[derive(Clone, Default)]
struct Tokens {
    claims: Vec<Arc<Claims>>,
    verified: Vec<(Arc<Authenticator>, Verified)>,
}

/// Whose policies apply.
#[derive(Clone)]
pub(super) enum Scope {
    Workload,
    /// Of a gateway, as far as they are known.
    Gateway {
        listener: Option<Arc<str>>,
        section: Option<Arc<RouteSection>>,
    },
}

impl Default for Scope {
    fn default() -> Self {
        Self::Gateway {
            listener: None,
            section: None,
        }
    }
}

impl Scope {
    pub(super) fn set_listener(&mut self, name: &Arc<str>) {
        if let Self::Gateway { listener, .. } = self {
            *listener = Some(name.clone());
        }
    }

    fn targets<'a>(&self, compiled: &'a Compiled, port: u16) -> Vec<&'a Arc<Target>> {
        match self {
            Self::Workload => compiled.of_workload().into_iter().collect(),
            Self::Gateway { listener, section } => {
                let listener = listener.as_deref();
                let of_listener = listener.and_then(|name| compiled.of_listener(port, name));
                let section = section.as_deref();
                let of_route = section.into_iter().flat_map(|of| compiled.of_route(of));
                of_listener.into_iter().chain(of_route).collect()
            }
        }
    }
}

impl Permit {
    pub(super) fn new(client: &Arc<ClientPolicies>, address: IpAddr, scope: Scope) -> Self {
        Self {
            client: client.clone(),
            address,
            scope,
            request: None,
            version: client.policies.version(),
            verdict: None,
            tokens: None,
        }
    }

    pub(super) fn set_request(&mut self, head: &Parts) {
        self.request = Some((head.method.clone(), head.uri.clone()));
    }

    pub(super) fn add(&mut self, verdict: Verdict) {
        self.verdict = Some(match self.verdict.take() {
            Some(before) => before.with(verdict),
            None => verdict,
        });
    }

    /// Verifies the tokens of the request. Returns true if it is not refused.
    pub(super) fn authenticate<'a>(
        &mut self,
        targets: impl IntoIterator<Item = &'a Arc<Target>>,
        head: &mut Parts,
    ) -> bool {
        let port = self.client.port;
        for target in targets {
            let tokens = &mut self.tokens;
            let refused = target.authenticate(port, head, |authenticator, verified| {
                let tokens = Arc::make_mut(tokens.get_or_insert_default());
                tokens.claims.push(verified.claims.clone());
                tokens.verified.push((authenticator.clone(), verified));
            });
            if let Some(verdict) = refused {
                self.add(verdict);
                return false;
            }
        }
        true
    }

    /// Returns the claims of its valid tokens.
    pub(super) fn claims(&self) -> &[Arc<Claims>] {
        self.tokens.as_ref().map_or(&[], |of| &of.claims)
    }

    /// Removes the tokens that are not to be forwarded.
    pub fn remove_tokens(&self, head: &mut Parts) {
        for (authenticator, verified) in self.tokens.iter().flat_map(|of| &of.verified) {
            authenticator.remove_token(verified, head);
        }
    }

    /// Verifies the token of the request by the policies of its listener.
    pub fn authenticate_at_listener(&mut self, name: &str, head: &mut Parts) {
        if let Some(compiled) = self.client.policies.load() {
            let target = compiled.of_listener(self.client.port, name);
            self.authenticate(target, head);
        }
    }

    /// Verifies the token of the request by the policies of its route.
    pub fn authenticate_at_route(&mut self, of: &RouteSection, head: &mut Parts) {
        if let Some(compiled) = self.client.policies.load() {
            self.authenticate(compiled.of_route(of), head);
        }
    }

    pub(super) fn decide_bytes(mut self) -> Self {
        let Some(compiled) = self.client.policies.load() else {
            return self;
        };
        self.version = compiled.version;
        for target in self.scope.targets(&compiled, self.client.port) {
            let client = self.client.decision(&compiled, target, self.address);
            self.add(client.bytes());
        }
        self
    }

    /// Decides on the request by the policies of its listener.
    pub fn at_listener(&mut self, name: &Arc<str>, head: &Parts) {
        self.scope.set_listener(name);
        if let Some(compiled) = self.client.policies.load() {
            self.version = compiled.version;
            let target = compiled.of_listener(self.client.port, name);
            self.decide(&compiled, target, head);
        }
    }

    /// Decides on the request by the policies of its route.
    pub fn at_route(&mut self, of: &Arc<RouteSection>, head: &Parts) {
        if let Scope::Gateway { section, .. } = &mut self.scope {
            *section = Some(of.clone());
        }
        if let Some(compiled) = self.client.policies.load() {
            // The version stays that of the listener's decision: if it is an older one, that
            // decision is repeated.
            self.decide(&compiled, compiled.of_route(of), head);
        }
    }

    fn decide<'a>(
        &mut self,
        compiled: &Compiled,
        targets: impl IntoIterator<Item = &'a Arc<Target>>,
        head: &Parts,
    ) {
        for target in targets {
            let client = self.client.decision(compiled, target, self.address);
            let claims = self.claims();
            let verdict = client.request(&head.method, &head.uri, &head.headers, claims);
            self.add(verdict);
        }
    }

    /// Returns the address of the client, as far as it is trusted.
    pub fn client(&self) -> IpAddr {
        self.address
    }

    /// Returns true if a response to the request may have a body (RFC 9110, 9.3.2).
    pub fn has_response_body(&self) -> bool {
        let mut method = self.request.iter().map(|(method, _)| method);
        method.any(|method| method != Method::HEAD)
    }

    /// Returns what was decided; `None` if no policy was in force.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// Returns true if it was denied, or has been revoked.
    pub fn is_denied(&self) -> bool {
        self.verdict.as_ref().is_some_and(Verdict::is_denied)
    }

    /// Decides again if the policies have changed. Returns true if it is denied now. Called for
    /// each frame: mostly compares two numbers.
    pub fn is_revoked(&mut self) -> bool {
        let policies = &self.client.policies;
        let version = policies.version();
        if version == self.version {
            return self.is_denied();
        }
        let Some(compiled) = policies.load() else {
            self.version = version;
            return self.is_denied();
        };
        self.version = compiled.version;
        let request = self.request.as_ref().map(|(method, uri)| (method, uri));
        for target in self.scope.targets(&compiled, self.client.port) {
            let client = self.client.decision(&compiled, target, self.address);
            if let Some(verdict) = client.revokes(request, self.claims()) {
                self.verdict = Some(verdict);
                break;
            }
        }
        self.is_denied()
    }

    /// Resolves once `permit` is denied, which is never if there is none.
    pub async fn revocation(permit: Option<&mut Self>) {
        match permit {
            Some(permit) => permit.revoked().await,
            None => std::future::pending().await,
        }
    }

    /// Resolves once it is denied.
    async fn revoked(&mut self) {
        let mut changes = self.client.policies.changes();
        while !self.is_revoked() {
            // The sender lives as long as the permit.
            let _ = changes.changed().await;
        }
    }
}

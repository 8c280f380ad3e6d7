//! The policies as far as they concern the client of one connection.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use weft_ir::{Claims, ConnectionAuthorization, Identity, Peer};

use super::permit::{Permit, Scope};
use super::target::Target;
use super::verdict::Verdict;
use super::{Compiled, Policies};

/// Decisions on clients and ports that a connection keeps: a gateway's connection may carry the
/// requests of several clients to several listeners and routes.
const MAX_KEPT: usize = 8;

/// The client of a connection, and what was decided on it alone.
pub struct ClientPolicies {
    pub(super) policies: Policies,
    identity: Option<Arc<Identity>>,
    pub(super) address: IpAddr,
    pub(super) port: u16,
    /// Of the newest version that was asked.
    kept: ArcSwapOption<Kept>,
}

struct Kept {
    version: u64,
    clients: Vec<Arc<ClientDecision>>,
}

/// What depends on a client and the port alone, for one target.
pub(super) struct ClientDecision {
    pub(super) target: Arc<Target>,
    address: IpAddr,
    connection: ConnectionAuthorization,
    pub(super) reads_paths: bool,
}

impl ClientPolicies {
    /// `port`: of the application, or of the listener.
    pub fn new(
        policies: &Policies,
        identity: Option<Arc<Identity>>,
        address: IpAddr,
        port: u16,
    ) -> Arc<Self> {
        Arc::new(Self {
            policies: policies.clone(),
            identity,
            address,
            port,
            kept: ArcSwapOption::empty(),
        })
    }

    /// Decides on a request to the pod. If a policy reads paths, `normalize` puts the request's
    /// into its normal form, in which it has to be forwarded.
    pub fn request(
        self: &Arc<Self>,
        head: &mut Parts,
        normalize: impl FnOnce(&mut Parts),
    ) -> Permit {
        let mut permit = Permit::new(self, self.address, Scope::Workload);
        if let Some(compiled) = self.policies.load() {
            permit.version = compiled.version;
            if let Some(target) = compiled.of_workload() {
                let client = self.decision(&compiled, target, self.address);
                if client.reads_paths {
                    normalize(head);
                }
                permit.set_request(head);
                if permit.authenticate([target], head) {
                    let claims = permit.claims();
                    let verdict = client.request(&head.method, &head.uri, &head.headers, claims);
                    permit.add(verdict);
                    permit.remove_tokens(head);
                }
                return permit;
            }
        }
        permit.set_request(head);
        permit
    }

    /// Begins with a request at a gateway, of the client at `address`: its listener and its route
    /// are to be decided next. The path has to be in its normal form if a policy reads paths.
    pub fn gateway_request(self: &Arc<Self>, head: &Parts, address: IpAddr) -> Permit {
        let mut permit = Permit::new(self, address, Scope::default());
        permit.set_request(head);
        permit
    }

    /// Decides on a connection of bytes to the pod.
    pub fn bytes(self: &Arc<Self>) -> Permit {
        Permit::new(self, self.address, Scope::Workload).decide_bytes()
    }

    /// Decides on a connection, or a session of datagrams, whose bytes the listener passes on.
    pub fn listener_bytes(self: &Arc<Self>, listener: &Arc<str>) -> Permit {
        let mut scope = Scope::default();
        scope.set_listener(listener);
        Permit::new(self, self.address, scope).decide_bytes()
    }

    /// Returns true if any policy reads paths.
    pub fn reads_paths(&self) -> bool {
        self.policies.load().is_some_and(|of| of.reads_paths)
    }

    /// Returns what was decided on the client, made once for each version.
    pub(super) fn decision(
        &self,
        compiled: &Compiled,
        target: &Arc<Target>,
        address: IpAddr,
    ) -> Arc<ClientDecision> {
        let kept = self.kept.load();
        let kept = kept
            .as_deref()
            .filter(|kept| kept.version == compiled.version);
        let mut clients = kept.into_iter().flat_map(|kept| &kept.clients);
        let known = clients.find(|of| of.address == address && Arc::ptr_eq(&of.target, target));
        if let Some(known) = known {
            return known.clone();
        }
        let peer = Peer {
            identity: self.identity.as_deref(),
            address,
        };
        let connection = target.authorizer.connection(peer, self.port);
        let made = Arc::new(ClientDecision {
            reads_paths: connection.reads_paths(),
            target: target.clone(),
            address,
            connection,
        });
        let mut next = Kept {
            version: compiled.version,
            clients: vec![made.clone()],
        };
        let others = kept.into_iter().flat_map(|kept| &kept.clients);
        next.clients.extend(others.take(MAX_KEPT - 1).cloned());
        // Of requests at the same time the last one wins: the others decide again.
        self.kept.store(Some(Arc::new(next)));
        made
    }
}

impl ClientDecision {
    pub(super) fn request(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        claims: &[Arc<Claims>],
    ) -> Verdict {
        let mut audited = None;
        let connection = &self.connection;
        let decision = connection.request(method, uri, headers, claims, |position| {
            self.target.count_audited(position);
            audited.get_or_insert(position);
        });
        self.target.conclude(decision, audited)
    }

    pub(super) fn bytes(&self) -> Verdict {
        let mut audited = None;
        let decision = self.connection.bytes(|position| {
            self.target.count_audited(position);
            audited.get_or_insert(position);
        });
        self.target.conclude(decision, audited)
    }

    /// Returns why what was allowed before is denied now. Nothing else is counted again.
    pub(super) fn revokes(
        &self,
        request: Option<(&Method, &Uri)>,
        claims: &[Arc<Claims>],
    ) -> Option<Verdict> {
        let decision = match request {
            Some((method, uri)) => self.connection.request_in_flight(method, uri, claims),
            None => self.connection.bytes(|_| {}),
        };
        matches!(decision, weft_ir::Decision::Denied(_))
            .then(|| self.target.conclude(decision, None))
    }
}

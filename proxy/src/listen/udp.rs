//! Datagrams of a gateway's port: each client has a session with one endpoint, and gets its
//! responses from the port that it sent to.
//!
//! A session begins with a client's first datagram, by weight and balance as connections are, over
//! a socket of its own that is connected to the endpoint: the kernel takes datagrams from nobody
//! else, and they go to nobody but the client. It ends when it is idle, or is evicted when there
//! are too many; when its endpoint or its backend's weight is gone, the next datagram begins
//! another. Nothing is buffered, repeated or reordered, and nothing is encrypted: mutual TLS is of
//! connections.
//!
//! Responses leave by the address that the kernel chooses for the client. If a host has several,
//! the socket is to be bound to the one that clients know.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::authorization::{ClientPolicies, Permit};
use crate::clock::{AtomicTimestamp, Clock, Timestamp};
use crate::http::runtime::Runtime;
use crate::routing::destination::ResolvedRule;
use crate::telemetry::error_type::ErrorType;
use crate::upstream::{Cluster, Members};

mod session;

use session::{
    BATCH, DATAGRAM, SessionState, connected_socket, is_unreachable, pass_responses, send_error,
};

/// The pause after an error of the socket that is no client's.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// Bounds of one port.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most sessions at a time; each has a file descriptor.
    pub sessions: usize,
    /// A session without a datagram either way ends after this.
    pub idle: Duration,
    /// A session that was silent for this long may be evicted for a new client.
    pub evictable_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 4_096,
            idle: Duration::from_secs(60),
            evictable_after: Duration::from_secs(1),
        }
    }
}

/// Whose policies apply to a port.
#[derive(Clone, Debug)]
pub struct Scope {
    pub port: u16,
    pub listener: Arc<str>,
}

/// The rule in force. `None` if no route is attached: every datagram is dropped.
pub type WatchedRule = Arc<ArcSwapOption<ResolvedRule>>;

/// Serves the port until the process drains and its sessions have ended. Dropping the future closes
/// the port and ends them at once.
pub async fn serve(
    runtime: Arc<Runtime>,
    socket: UdpSocket,
    rule: WatchedRule,
    scope: Scope,
    limits: Limits,
) {
    let mut changes = runtime.store.policies().changes();
    let mut port = Port {
        runtime: runtime.clone(),
        socket: Arc::new(socket),
        rule,
        scope,
        limits,
        sessions: HashMap::new(),
        tasks: JoinSet::new(),
        clock: Clock::start(),
        last: 0,
    };
    loop {
        let draining = runtime.shutdown.is_draining();
        if draining && port.sessions.is_empty() {
            return;
        }
        tokio::select! {
            readable = port.socket.readable() => match readable {
                Ok(()) => port.take().await,
                Err(error) => port.pause(&error).await,
            },
            // The store outlives the port.
            Ok(()) = changes.changed() => port.end_revoked(),
            Some(ended) = port.tasks.join_next() => port.ended(ended.ok()),
            () = runtime.shutdown.draining(), if !draining => {}
        }
    }
}

struct Port {
    runtime: Arc<Runtime>,
    socket: Arc<UdpSocket>,
    rule: WatchedRule,
    scope: Scope,
    limits: Limits,
    sessions: HashMap<SocketAddr, Session>,
    /// Tasks that pass responses on; each returns its client and number.
    tasks: JoinSet<(SocketAddr, u64)>,
    clock: Clock,
    /// The number of the latest session.
    last: u64,
}

/// What sending to the endpoint needs.
struct Session {
    number: u64,
    state: Arc<SessionState>,
    /// The rule and the members in which the endpoint was last found.
    resolved_from: (Arc<ResolvedRule>, Arc<Members>),
    permit: Permit,
    task: tokio::task::AbortHandle,
}

impl Port {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn pause(&self, error: &io::Error) {
        tracing::warn!(listener = "udp", %error, "taking datagrams");
        tokio::time::sleep(ERROR_PAUSE).await;
    }

    /// Receives what is there and sends it on.
    async fn take(&mut self) {
        for _ in 0..BATCH {
            let received: io::Result<()> = DATAGRAM.with_borrow_mut(|buffer| {
                let (length, client) = self.socket.try_recv_from(buffer)?;
                self.forward(client, &buffer[..length]);
                Ok(())
            });
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A response to a client that has gone comes back as an error of this socket.
                Err(error) if is_unreachable(&error) => {}
                Err(error) => return self.pause(&error).await,
            }
        }
        tokio::task::yield_now().await;
    }

    fn forward(&mut self, client: SocketAddr, datagram: &[u8]) {
        if let Err(error_type) = self.try_forward(client, datagram) {
            self.runtime.metrics.udp.dropped(error_type);
        }
    }

    /// Errors with the reason why the datagram is dropped.
    fn try_forward(&mut self, client: SocketAddr, datagram: &[u8]) -> Result<(), ErrorType> {
        if !self.has_session(client) {
            self.end_session(client);
            self.start_session(client)?;
        }
        let sent = match self.send(client, datagram) {
            // The error is of an earlier datagram: this one was not sent.
            Err(error) if is_unreachable(&error) => {
                self.end_session(client);
                self.start_session(client)?;
                self.send(client, datagram)
            }
            sent => sent,
        };
        sent.map_err(|error| send_error(&error))
    }

    fn send(&self, client: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let session = self
            .sessions
            .get(&client)
            .ok_or(io::ErrorKind::NotConnected)?;
        let state = &session.state;
        // Bypasses the runtime, for which a new socket is not writable until it was polled.
        match SockRef::from(&state.socket).send(datagram) {
            Ok(_) => {
                state.used.store(self.now());
                state.up.fetch_add(datagram.len() as u64, Relaxed);
                self.runtime.metrics.udp.to_server.inc();
                Ok(())
            }
            Err(error) => {
                if is_unreachable(&error) {
                    state.mark_unreachable();
                }
                Err(error)
            }
        }
    }

    /// Returns true if the client has a session whose endpoint its datagrams may still go to.
    fn has_session(&mut self, client: SocketAddr) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else {
            return false;
        };
        if session.permit.is_revoked() {
            return false;
        }
        let rule = self.rule.load();
        let Some(rule) = rule.as_ref() else {
            return false;
        };
        let state = &session.state;
        let members = state.cluster.members();
        if Arc::ptr_eq(rule, &session.resolved_from.0)
            && Arc::ptr_eq(&members, &session.resolved_from.1)
        {
            return true;
        }
        let is = |cluster: &Arc<Cluster>| Arc::ptr_eq(cluster, &state.cluster);
        let kept = members
            .endpoints
            .iter()
            .any(|endpoint| Arc::ptr_eq(endpoint, &state.endpoint))
            && rule
                .backends
                .iter()
                .any(|backend| backend.weight > 0 && backend.target.as_ref().is_ok_and(is));
        if kept {
            session.resolved_from = (rule.clone(), members.clone());
        }
        kept
    }

    fn start_session(&mut self, client: SocketAddr) -> Result<(), ErrorType> {
        if self.runtime.shutdown.is_draining() {
            return Err(ErrorType::Draining);
        }
        let permit = self.permit(client);
        if permit.is_denied() {
            return Err(ErrorType::AuthorizationDenied);
        }
        let rule = self.rule.load_full().ok_or(ErrorType::NoRoute)?;
        let backend = rule.pick_backend().ok_or(ErrorType::InvalidConfiguration)?;
        let cluster = backend
            .target
            .as_ref()
            .map_err(|_| ErrorType::InvalidConfiguration)?
            .clone();
        let metrics = backend.metrics.clone();
        let endpoint = cluster
            .pick_for_datagrams(client.ip())
            .ok_or(ErrorType::NoEndpoints)?;
        if self.sessions.len() >= self.limits.sessions {
            self.make_room()?;
        }
        let socket = connected_socket(endpoint.address).map_err(|error| {
            tracing::debug!(listener = "udp", endpoint = %endpoint.address, %error, "opening a socket");
            ErrorType::NoSocket
        })?;
        endpoint.load.begin();
        self.runtime.metrics.udp.session_started();
        let members = cluster.members().clone();
        let state = Arc::new(SessionState {
            runtime: self.runtime.clone(),
            client,
            socket,
            endpoint,
            cluster,
            metrics,
            permit: permit.clone(),
            begun: Instant::now(),
            used: AtomicTimestamp::new(self.now()),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
        });
        self.last += 1;
        let number = self.last;
        let responses = pass_responses(
            state.clone(),
            self.socket.clone(),
            self.clock,
            self.limits.idle,
        );
        let task = self.tasks.spawn(async move {
            responses.await;
            (client, number)
        });
        let resolved_from = (rule, members);
        self.sessions.insert(
            client,
            Session {
                number,
                state,
                resolved_from,
                permit,
                task,
            },
        );
        Ok(())
    }

    /// Evicts the session that was silent for longest, if that is long enough.
    fn make_room(&mut self) -> Result<(), ErrorType> {
        let used = |session: &Session| session.state.used.load();
        let oldest = self
            .sessions
            .iter()
            .min_by_key(|(_, session)| used(session));
        let (client, session) = oldest.ok_or(ErrorType::SessionLimit)?;
        let silent = self.now().since(used(session));
        if silent < self.limits.evictable_after {
            return Err(ErrorType::SessionLimit);
        }
        let client = *client;
        self.end_session(client);
        Ok(())
    }

    fn permit(&self, client: SocketAddr) -> Permit {
        let policies = self.runtime.store.policies();
        let address = client.ip().to_canonical();
        let client = ClientPolicies::new(policies, None, address, self.scope.port);
        client.listener_bytes(&self.scope.listener)
    }

    /// Ends the sessions that the policies deny by now.
    fn end_revoked(&mut self) {
        self.sessions.retain(|_, session| {
            let revoked = session.permit.is_revoked();
            if revoked {
                session.task.abort();
            }
            !revoked
        });
    }

    fn end_session(&mut self, client: SocketAddr) {
        if let Some(session) = self.sessions.remove(&client) {
            session.task.abort();
        }
    }

    /// Removes the session of a task that has ended. `None`: the task was aborted, and its session
    /// is gone.
    fn ended(&mut self, of: Option<(SocketAddr, u64)>) {
        let Some((client, number)) = of else { return };
        if self
            .sessions
            .get(&client)
            .is_some_and(|session| session.number == number)
        {
            self.sessions.remove(&client);
        }
    }
}

//! A controller for tests: the real protocol over TLS, with resources set by the test.
//!
//! It can be stopped (connections are refused), paused (connections stay open without traffic) and
//! restarted on its port.

mod listener;
mod mesh;
mod session;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use weft_api::{encode, proto};
use weft_ir::{
    Destination, EndpointSet, Gateway, GatewayPort, Identity, ResourceKey, TrustDomain,
    TrustedRoots, Workload,
};

use crate::pki::{LeafSpec, Pki};
use listener::PausablePort;

/// A message from a proxy.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Sign,
    Hello {
        peer: Identity,
        hello: proto::Hello,
    },
    Watch(String),
    Unwatch(String),
    Ack(proto::Ack),
    /// The root of the proxy's certificate.
    Certificate(CertificateDer<'static>),
    Withdraw,
}

/// Shared by the handle and the services.
pub(crate) struct Shared {
    pki: Mutex<Arc<Pki>>,
    state: Mutex<State>,
    /// Incremented when resources change.
    changed: watch::Sender<u64>,
    /// Incremented for each event.
    recorded: watch::Sender<u64>,
    /// Incremented to end all streams.
    stream_ends: watch::Sender<u64>,
}

struct State {
    resources: BTreeMap<String, proto::Resource>,
    events: Vec<Event>,
    lifetime: Duration,
    token: String,
    account: Identity,
    extra_roots: Vec<CertificateDer<'static>>,
    refuse_sign: Option<String>,
    withdrawn: Option<proto::Withdrawn>,
}

/// The handle; dropping it stops the controller.
pub struct FakeController {
    shared: Arc<Shared>,
    port: PausablePort,
    address: SocketAddr,
    identity: Identity,
}

impl FakeController {
    /// Listens on a free loopback port. It accepts `token` as the token of `account`.
    pub async fn start(pki: Arc<Pki>, account: Identity, token: &str) -> Result<Self> {
        Self::start_at("127.0.0.1:0".parse()?, pki, account, token).await
    }

    /// Listens on `address`, for proxies in network namespaces of their own.
    pub async fn start_at(
        address: SocketAddr,
        pki: Arc<Pki>,
        account: Identity,
        token: &str,
    ) -> Result<Self> {
        let domain = TrustDomain::new("cluster.local")?;
        let identity = Identity::new(domain, "weft-system", "weft-controller")?;
        let leaf = pki.issue(&LeafSpec::new(&identity))?;
        let shared = Arc::new(Shared {
            pki: Mutex::new(pki.clone()),
            state: Mutex::new(State {
                resources: BTreeMap::new(),
                events: Vec::new(),
                lifetime: Duration::from_secs(24 * 3600),
                token: token.to_owned(),
                account,
                extra_roots: Vec::new(),
                refuse_sign: None,
                withdrawn: None,
            }),
            changed: watch::Sender::new(0),
            recorded: watch::Sender::new(0),
            stream_ends: watch::Sender::new(0),
        });
        let incoming = listener::serve(&pki, leaf, shared.clone())?;
        let port = PausablePort::open(address, incoming).await?;
        let address = port.address();
        Ok(Self {
            shared,
            port,
            address,
            identity,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value of `WEFT_CONTROLLER`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The value of `WEFT_CONTROLLER_IDENTITY`.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Sets or replaces resources as one change: subscribers get them in one update.
    pub fn set(&self, resources: impl IntoIterator<Item = proto::Resource>) {
        let mut state = self.shared.state();
        for resource in resources {
            state.resources.insert(resource.key.clone(), resource);
        }
        drop(state);
        self.shared.changed.send_modify(|n| *n += 1);
    }

    pub fn set_workload(&self, workload: &Workload) {
        self.set([encode::workload(workload)]);
    }

    pub fn set_destination(&self, destination: &Destination) {
        self.set([encode::destination(destination)]);
    }

    pub fn set_endpoints(&self, endpoints: &EndpointSet) {
        self.set([encode::endpoints(endpoints)]);
    }

    pub fn set_gateway(&self, gateway: &Gateway) {
        self.set([encode::gateway(gateway)]);
    }

    pub fn set_port(&self, port: &GatewayPort) {
        self.set([encode::gateway_port(port)]);
    }

    pub fn remove(&self, key: &ResourceKey) {
        self.shared.state().resources.remove(&key.to_string());
        self.shared.changed.send_modify(|n| *n += 1);
    }

    /// Sets the roots on the stream, the current issuer first.
    pub fn set_roots(&self, roots: &[&Pki]) {
        if let Some((signer, additional)) = roots.split_first() {
            self.set([encode::roots(&TrustedRoots {
                signer: signer.root().to_vec(),
                additional: additional.iter().map(|pki| pki.root().to_vec()).collect(),
            })]);
        }
    }

    /// Sets the lifetime of certificates signed from now on.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.shared.state().lifetime = lifetime;
    }

    /// Sets the only accepted token.
    pub fn set_token(&self, token: &str) {
        self.shared.state().token = token.to_owned();
    }

    /// Sets the roots that `Sign` returns in addition to its own.
    pub fn set_extra_roots(&self, roots: Vec<CertificateDer<'static>>) {
        self.shared.state().extra_roots = roots;
    }

    /// Signs with this root from now on; the serving certificate does not change.
    pub fn set_pki(&self, pki: Arc<Pki>) {
        *self
            .shared
            .pki
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = pki;
    }

    /// Makes `Sign` fail with this message until it is `None`.
    pub fn refuse_sign(&self, message: Option<&str>) {
        self.shared.state().refuse_sign = message.map(str::to_owned);
    }

    /// Sets the response to `Withdraw`; `None` for no response.
    pub fn answer_withdraw(&self, withdrawn: Option<proto::Withdrawn>) {
        self.shared.state().withdrawn = withdrawn;
    }

    /// Ends every stream gracefully, as a controller does at the end of their lifetime.
    pub fn end_streams(&self) {
        self.shared.stream_ends.send_modify(|n| *n += 1);
    }

    /// Closes every connection and the port.
    pub fn stop(&mut self) {
        self.port.close();
    }

    /// Listens on its port again, with the same resources.
    pub async fn restart(&mut self) -> Result<()> {
        self.port.reopen().await
    }

    /// Stops reading and writing; connections stay open, and new ones are accepted.
    pub fn hang(&self) {
        self.port.hang(true);
    }

    pub fn resume(&self) {
        self.port.hang(false);
    }

    /// Returns all events since the start.
    pub fn events(&self) -> Vec<Event> {
        self.shared.state().events.clone()
    }

    /// Returns the first event from `skip` on that `wanted` accepts.
    ///
    /// # Errors
    ///
    /// After 10 seconds.
    pub async fn wait_for(
        &self,
        skip: usize,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Event> {
        let mut recorded = self.shared.recorded.subscribe();
        let search = async {
            loop {
                recorded.borrow_and_update();
                let events = self.events();
                if let Some(event) = events.iter().skip(skip).find(|event| wanted(event)) {
                    return Ok(event.clone());
                }
                recorded.changed().await?;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(10), search).await;
        found.with_context(|| format!("no such event among {:#?}", self.events()))?
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pki(&self) -> Arc<Pki> {
        let pki = self.pki.lock().unwrap_or_else(PoisonError::into_inner);
        pki.clone()
    }

    fn record(&self, event: Event) {
        self.state().events.push(event);
        self.recorded.send_modify(|n| *n += 1);
    }
}

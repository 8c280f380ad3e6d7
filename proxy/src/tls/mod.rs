//! TLS between proxies, and to the controller: TLS 1.3, both sides authenticated by SPIFFE IDs.
//!
//! Certificate and roots are read at each handshake, so a rotation needs no new configuration and
//! leaves open connections alone. There is no resumption: a resumed session would skip the
//! verification of the certificate.

pub mod backend;
mod certificate;
mod client;
pub mod credentials;
mod handshake;
pub mod key_pair;
mod peer;
mod server;
pub mod termination;
pub mod trusted;
mod verify;

use std::sync::{Arc, Mutex, PoisonError};

use rustls::Error;
use rustls::client::ClientConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::ServerConfig;
use weft_ir::{BackendTls, Identity, KeyPair, TrustDomain};

use backend::{Backend, Backends};
use client::{ClientConfigs, client_config};
use credentials::{CurrentCredentials, Roots};
use key_pair::KeyPairError;
use server::server_config;
use verify::RootsFrom;

pub use handshake::{HandshakeError, handshake_result, handshake_words};
pub use peer::{PeerError, peer_identity, valid_for};

/// Makes the TLS configurations of this proxy.
#[derive(Clone)]
pub struct Tls {
    current: CurrentCredentials,
    provider: Arc<CryptoProvider>,
    server: Arc<ServerConfig>,
    clients: Arc<Mutex<ClientConfigs>>,
    backends: Arc<Backends>,
}

impl Tls {
    /// # Errors
    ///
    /// If the crypto provider does not support TLS 1.3.
    pub fn new(current: CurrentCredentials, trust_domain: TrustDomain) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let server = server_config(&provider, &current, trust_domain)?;
        Ok(Self {
            current,
            provider,
            server: Arc::new(server),
            clients: Arc::default(),
            backends: Arc::default(),
        })
    }

    /// Returns the configuration for connections from other proxies, which must present a
    /// certificate of this trust domain.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// Returns the configuration for connections to a proxy with the identity `expected`. `alpn` is
    /// one of [`weft_api::alpn`].
    pub fn client_config(
        &self,
        expected: &Identity,
        alpn: &'static [u8],
    ) -> Result<Arc<ClientConfig>, Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.get(expected, alpn, || {
            let roots = RootsFrom::Current(self.current.clone());
            let own = Some(&self.current);
            client_config(&self.provider, expected, alpn, roots, own)
        })
    }

    /// Returns the configuration for the stream from the controller: verified against `roots`, with
    /// the proxy's own certificate.
    pub fn controller_config(
        &self,
        expected: &Identity,
        roots: Arc<Roots>,
    ) -> Result<Arc<ClientConfig>, Error> {
        let roots = RootsFrom::Fixed(roots);
        let own = Some(&self.current);
        client_config(&self.provider, expected, b"h2", roots, own).map(Arc::new)
    }

    /// Returns the configuration for requesting a certificate from the controller. No certificate
    /// is presented, since it may be absent, expired or of a root that is no longer trusted; the
    /// token authenticates the proxy.
    pub fn authority_config(
        &self,
        expected: &Identity,
        roots: Arc<Roots>,
    ) -> Result<Arc<ClientConfig>, Error> {
        let roots = RootsFrom::Fixed(roots);
        client_config(&self.provider, expected, b"h2", roots, None).map(Arc::new)
    }

    /// Returns the client of applications that speak TLS; equal settings share one.
    pub fn backend(&self, tls: &Arc<BackendTls>) -> Arc<Backend> {
        self.backends.get(&self.provider, tls)
    }

    /// Sets the gateway's certificate for applications that request one, from the next handshake
    /// on.
    ///
    /// # Errors
    ///
    /// If the pair is not usable; the earlier certificate stays in use.
    pub fn set_client_certificate(&self, pair: Option<&KeyPair>) -> Result<(), KeyPairError> {
        self.backends.set_certificate(&self.provider, pair)
    }

    /// Returns true if there is a certificate to present.
    pub fn has_certificate(&self) -> bool {
        self.current.load().is_some()
    }
}

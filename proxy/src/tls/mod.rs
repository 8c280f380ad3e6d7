//! TLS between proxies, and to the controller: TLS 1.3, both sides proven by SPIFFE ids.
//!
//! Certificate and roots are read at each handshake, so that a rotation needs no new configuration
//! and touches no connection that stands. There is no resumption: a resumed session would skip the
//! check of the certificate.

pub mod backend;
pub mod credentials;
mod handshake;
pub mod key_pair;
pub mod termination;
pub mod trusted;
mod verify;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, SignatureScheme, version};
use rustls_pki_types::CertificateDer;
use weft_ir::{BackendTls, Identity, KeyPair, TrustDomain};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use backend::{Backend, Backends};
use credentials::{CurrentCredentials, Roots};
use key_pair::KeyPairError;
use verify::{ExpectedServer, MeshClients, RootsFrom};

pub use handshake::{HandshakeError, handshake_result, handshake_words};

/// Client configurations kept; beyond it all are made anew (they are cheap, and a pod has few
/// peers' identities).
const MAX_CLIENT_CONFIGS: usize = 1_024;

/// By who is expected and the application protocol.
type ClientConfigs = HashMap<(Identity, &'static [u8]), Arc<ClientConfig>>;

/// Makes the TLS configurations of this proxy.
#[derive(Clone)]
pub struct Tls {
    current: CurrentCredentials,
    provider: Arc<CryptoProvider>,
    server: Arc<ServerConfig>,
    clients: Arc<Mutex<ClientConfigs>>,
    backends: Arc<Backends>,
}

/// The certificate does not say who its owner is in a way the mesh takes.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PeerError {
    #[error("the peer presented no certificate")]
    Absent,
    #[error("the peer's certificate is no X.509 certificate")]
    Malformed,
    #[error("the peer's certificate has {0} URI names; exactly one, its SPIFFE id, is allowed")]
    Uris(usize),
    #[error("the peer's certificate names {0:?}, which is no identity of a mesh")]
    NoIdentity(String),
    #[error("the peer is {0}, of another trust domain")]
    TrustDomain(Identity),
    #[error("the peer is {found}, and {expected} was expected")]
    Unexpected { found: Identity, expected: Identity },
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(error))))
    }
}

/// The identity in the leaf of `chain`, which TLS has verified before.
pub fn peer_identity(chain: Option<&[CertificateDer<'_>]>) -> Result<Identity, PeerError> {
    let leaf = chain.and_then(<[_]>::first).ok_or(PeerError::Absent)?;
    // A certificate ends with its DER value.
    let Ok(([], leaf)) = X509Certificate::from_der(leaf) else {
        return Err(PeerError::Malformed);
    };
    let names = leaf
        .subject_alternative_name()
        .map_err(|_| PeerError::Malformed)?;
    let names = names.map_or(&[][..], |san| &san.value.general_names);
    let uris: Vec<&str> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            GeneralName::Invalid(..) => Some(""),
            _ => None,
        })
        .collect();
    let [uri] = uris[..] else {
        return Err(PeerError::Uris(uris.len()));
    };
    uri.parse()
        .map_err(|_| PeerError::NoIdentity(uri.to_owned()))
}

/// How long the peer's certificate, which has been verified, is valid from now on.
pub fn valid_for(chain: Option<&[CertificateDer<'_>]>) -> Duration {
    let leaf = chain.and_then(<[_]>::first);
    let leaf = leaf.and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let end = leaf.map_or(0, |(_, leaf)| leaf.validity().not_after.timestamp());
    let left = end.saturating_sub(credentials::unix_now());
    Duration::from_secs(u64::try_from(left).unwrap_or(0))
}

impl Tls {
    /// Errors when the crypto provider lacks TLS 1.3.
    pub fn new(current: CurrentCredentials, trust_domain: TrustDomain) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = MeshClients {
            current: current.clone(),
            trust_domain,
            algorithms: provider.signature_verification_algorithms,
        };
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(Certificate(current.clone())));
        server.alpn_protocols = weft_api::alpn::ALL.map(<[u8]>::to_vec).to_vec();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self {
            current,
            provider,
            server: Arc::new(server),
            clients: Arc::default(),
            backends: Arc::default(),
        })
    }

    /// For connections from other proxies: their certificate is required and of our trust domain.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For connections to a proxy that must prove to be `expected`. `alpn` is one of
    /// [`weft_api::alpn`].
    pub fn client_config(
        &self,
        expected: &Identity,
        alpn: &'static [u8],
    ) -> Result<Arc<ClientConfig>, Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (expected.clone(), alpn);
        if let Some(config) = clients.get(&key) {
            return Ok(config.clone());
        }
        let roots = RootsFrom::Current(self.current.clone());
        let config = Arc::new(client_config(
            &self.provider,
            expected,
            alpn,
            roots,
            Some(&self.current),
        )?);
        if clients.len() >= MAX_CLIENT_CONFIGS {
            clients.clear();
        }
        clients.insert(key, config.clone());
        Ok(config)
    }

    /// For the controller's stream, checked against `roots`, with our certificate.
    pub fn controller_config(
        &self,
        expected: &Identity,
        roots: Arc<Roots>,
    ) -> Result<Arc<ClientConfig>, Error> {
        let roots = RootsFrom::Fixed(roots);
        let own = Some(&self.current);
        client_config(&self.provider, expected, b"h2", roots, own).map(Arc::new)
    }

    /// For asking the controller for a certificate: without ours, which may be absent, expired or
    /// of a root that is no longer trusted. The token says who asks.
    pub fn authority_config(
        &self,
        expected: &Identity,
        roots: Arc<Roots>,
    ) -> Result<Arc<ClientConfig>, Error> {
        let roots = RootsFrom::Fixed(roots);
        client_config(&self.provider, expected, b"h2", roots, None).map(Arc::new)
    }

    /// How to speak to applications that want TLS; the same for the same settings.
    pub fn backend(&self, tls: &Arc<BackendTls>) -> Arc<Backend> {
        self.backends.get(&self.provider, tls)
    }

    /// The gateway's certificate for applications that ask for one, from the next handshake on.
    /// Errors leave the last one in force.
    pub fn set_client_certificate(&self, pair: Option<&KeyPair>) -> Result<(), KeyPairError> {
        self.backends.set_certificate(&self.provider, pair)
    }

    /// Whether handshakes can succeed.
    pub fn has_certificate(&self) -> bool {
        self.current.load().is_some()
    }
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    expected: &Identity,
    alpn: &[u8],
    roots: RootsFrom,
    own: Option<&CurrentCredentials>,
) -> Result<ClientConfig, Error> {
    let verifier = ExpectedServer {
        roots,
        expected: expected.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(current) => builder.with_client_cert_resolver(Arc::new(Certificate(current.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

/// Presents the certificate in force.
struct Certificate(CurrentCredentials);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate")
    }
}

impl Certificate {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0.load().as_ref().map(|current| current.key.clone())
    }
}

impl rustls::server::ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl rustls::client::ResolvesClientCert for Certificate {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

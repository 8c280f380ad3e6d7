//! TLS termination at a gateway: the selection of the server certificate, and the verification of
//! client certificates.
//!
//! Source: Gateway API v1.6.3, `GatewayTLSConfig` and `FrontendTLSValidation` (GEP-91). Which
//! listener accepts a connection was decided before, by the server name.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DistinguishedName, Error, RootCertStore, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use weft_ir::{ClientValidation, HostMap, KeyPair, ServerTls, bare_host};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::key_pair::certified;
use super::verify::signature_checks;

/// TLS termination of one listener.
pub struct Termination {
    of: ServerTls,
    config: Option<Arc<ServerConfig>>,
    faults: Vec<String>,
}

impl Termination {
    /// Reuses `known`, with its sessions, if it has the same settings. Unusable certificates and
    /// roots are omitted and reported in [`Self::faults`].
    pub fn new(of: &ServerTls, alpn: &[&[u8]], known: Option<&Arc<Self>>) -> Arc<Self> {
        if let Some(known) = known.filter(|known| known.of == *of) {
            return known.clone();
        }
        let mut faults = Vec::new();
        let config = match config(of, alpn, &mut faults) {
            Ok(config) => config.map(Arc::new),
            Err(error) => {
                faults.push(error.to_string());
                None
            }
        };
        Arc::new(Self {
            of: of.clone(),
            config,
            faults,
        })
    }

    /// Returns `None` if no certificate is usable.
    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        self.config.clone()
    }

    /// Returns a message for each unusable certificate or root.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Returns the validation of client certificates, if there is one.
    pub fn clients(&self) -> Option<&ClientValidation> {
        self.of.clients.as_ref()
    }
}

fn config(
    of: &ServerTls,
    alpn: &[&[u8]],
    faults: &mut Vec<String>,
) -> Result<Option<ServerConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut certificates = Vec::new();
    for (place, pair) in of.certificates.iter().enumerate() {
        match ServerCertificate::read(pair, &provider) {
            Ok(one) => certificates.push(one),
            Err(reason) => faults.push(format!("certificate {place}: {reason}")),
        }
    }
    if certificates.is_empty() {
        return Ok(None);
    }
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?;
    let builder = match &of.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let verifier = ClientVerifier::new(clients, provider, faults);
            builder.with_client_cert_verifier(Arc::new(verifier))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates(certificates)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    if of.clients.is_some() {
        // A resumed session would skip the verification of the client's certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Some(config))
}

/// A certificate with its DNS names.
struct ServerCertificate {
    key: Arc<CertifiedKey>,
    hosts: HostMap<()>,
}

impl ServerCertificate {
    fn read(pair: &KeyPair, provider: &CryptoProvider) -> Result<Self, String> {
        let key = certified(provider, pair).map_err(|error| error.to_string())?;
        let hosts = hosts(key.end_entity_cert().map_err(|error| error.to_string())?)?;
        Ok(Self {
            key: Arc::new(key),
            hosts,
        })
    }

    fn suits(&self, hello: &ClientHello<'_>) -> bool {
        let schemes = hello.signature_schemes();
        self.key.key.choose_scheme(schemes).is_some()
    }

    fn is_for(&self, host: &str) -> bool {
        self.hosts.fitting(Some(host)).next().is_some()
    }
}

/// Returns the DNS names of a certificate. Names that are not host names are omitted: no client can
/// request them.
fn hosts(leaf: &CertificateDer<'_>) -> Result<HostMap<()>, String> {
    let (_, leaf) = X509Certificate::from_der(leaf)
        .map_err(|error| format!("the first of the chain is no X.509 certificate: {error}"))?;
    let names = leaf
        .subject_alternative_name()
        .map_err(|error| format!("its alternative names: {error}"))?;
    let names = names.map_or(&[][..], |san| &san.value.general_names);
    let mut hosts = HostMap::default();
    for name in names {
        if let GeneralName::DNSName(name) = name
            && let Ok(pattern) = name.parse()
        {
            hosts.insert(Some(pattern), ());
        }
    }
    Ok(hosts)
}

/// Selects the first certificate that matches the server name and whose signature scheme the client
/// supports, else the first with a supported scheme, else the first.
struct Certificates(Vec<ServerCertificate>);

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} certificates", self.0.len())
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = hello
            .server_name()
            .map(|name| bare_host(name).to_ascii_lowercase());
        let is_for =
            |one: &&ServerCertificate| host.as_deref().is_some_and(|host| one.is_for(host));
        let mut suitable = self.0.iter().filter(|one| one.suits(&hello));
        let closest = suitable.clone().find(is_for);
        let certificates = closest
            .or_else(|| suitable.next())
            .or_else(|| self.0.first());
        certificates.map(|one| one.key.clone())
    }
}

/// Verifies client certificates.
struct ClientVerifier {
    /// `None` if there are no roots: every certificate is rejected.
    chains: Option<Arc<dyn ClientCertVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    insecure_fallback: bool,
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientVerifier")
    }
}

impl ClientVerifier {
    fn new(of: &ClientValidation, provider: Arc<CryptoProvider>, faults: &mut Vec<String>) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&of.roots) {
            let added = match certificate {
                Ok(certificate) => roots.add(certificate).map_err(|e| e.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = added {
                faults.push(format!("a root of the clients' certificates: {reason}"));
            }
        }
        let algorithms = provider.signature_verification_algorithms;
        // Fails only without roots.
        let chains = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Self {
            chains: chains.ok(),
            algorithms,
            insecure_fallback: of.insecure_fallback,
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.insecure_fallback
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        let chains = self.chains.as_ref();
        chains.map_or(&[], |chains| chains.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.insecure_fallback {
            return Ok(ClientCertVerified::assertion());
        }
        match &self.chains {
            Some(chains) => chains.verify_client_cert(leaf, intermediates, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
    }

    signature_checks!(tls12, tls13);
}

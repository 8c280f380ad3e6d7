//! TLS from a gateway to applications: the accepted roots and names, and the offered protocols.
//!
//! Source: Gateway API v1.6.3, `BackendTLSPolicyValidation`; names of wildcards by RFC 9525, 6.3.
//! The roots that browsers trust are compiled in: the image has no store of certificates to read,
//! and the same build trusts the same roots wherever it runs.
//!
//! A [`Backend`] is prepared once from the settings of a policy; `upstream` knows which endpoints
//! it applies to.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, OtherError, SignatureScheme, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use weft_api::alpn;
use weft_ir::{AlternativeName, BackendRoots, BackendTls, KeyPair};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::credentials::Roots;
use super::key_pair::{KeyPairError, certified};
use super::verify::{signature_checks, verify_chain};

/// The maximum number of roots that an error lists.
const MAX_NAMED_ROOTS: usize = 3;

/// The backends in use, one for each set of settings, and the gateway's certificate.
#[derive(Debug, Default)]
pub(super) struct Backends {
    known: Mutex<KnownBackends>,
    certificate: Arc<ArcSwapOption<CertifiedKey>>,
}

#[derive(Debug, Default)]
struct KnownBackends {
    backends: HashMap<Arc<BackendTls>, Weak<Backend>>,
    last: u64,
}

impl Backends {
    /// Returns the backend of these settings, shared while it is in use.
    pub(super) fn get(
        &self,
        provider: &Arc<CryptoProvider>,
        tls: &Arc<BackendTls>,
    ) -> Arc<Backend> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backend) = known.backends.get(tls).and_then(Weak::upgrade) {
            return backend;
        }
        known.last += 1;
        let own = Arc::new(OwnCertificate(self.certificate.clone()));
        let backend = Arc::new(Backend::new(known.last, provider, tls, own));
        known.backends.retain(|_, one| one.strong_count() > 0);
        known.backends.insert(tls.clone(), Arc::downgrade(&backend));
        backend
    }

    /// Sets the certificate that new handshakes present to servers that request one.
    ///
    /// # Errors
    ///
    /// If the pair is not usable; the earlier certificate stays in use.
    pub(super) fn set_certificate(
        &self,
        provider: &CryptoProvider,
        pair: Option<&KeyPair>,
    ) -> Result<(), KeyPairError> {
        let key = pair.map(|pair| certified(provider, pair)).transpose()?;
        self.certificate.store(key.map(Arc::new));
        Ok(())
    }
}

/// The TLS client for the endpoints of one policy.
#[derive(Debug)]
pub struct Backend {
    /// Identifies these settings within the process.
    pub id: u64,
    pub hostname: Arc<str>,
    /// Describes the roots for errors.
    pub roots: Box<str>,
    configs: Result<BackendConfigs, Box<str>>,
}

/// Configurations by their ALPN protocols, and the server name of the ClientHello.
#[derive(Debug)]
struct BackendConfigs {
    name: ServerName<'static>,
    http2: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
    bytes: Arc<ClientConfig>,
}

impl Backend {
    fn new(
        id: u64,
        provider: &Arc<CryptoProvider>,
        tls: &BackendTls,
        own: Arc<OwnCertificate>,
    ) -> Self {
        let (roots, words) = read_roots(&tls.roots);
        Self {
            id,
            hostname: tls.hostname.clone(),
            roots: words.into(),
            configs: configs(provider, tls, roots, own).map_err(Into::into),
        }
    }

    /// Returns the configuration and the server name of a connection. It offers what corresponds to
    /// the protocol `alpn` between proxies: HTTP/2 for [`alpn::H2`], HTTP/1.1 for [`alpn::H1`],
    /// none for [`alpn::TCP`], and both versions for [`alpn::H2_FOR_H1`].
    ///
    /// # Errors
    ///
    /// If the settings are not usable.
    pub(crate) fn config(
        &self,
        alpn: &[u8],
    ) -> Result<(Arc<ClientConfig>, ServerName<'static>), &str> {
        let configs = self.configs.as_ref().map_err(|words| &**words)?;
        let config = match alpn {
            alpn::H2 => &configs.http2,
            alpn::H1 => &configs.http1,
            alpn::H2_FOR_H1 => &configs.either,
            _ => &configs.bytes,
        };
        Ok((config.clone(), configs.name.clone()))
    }
}

fn configs(
    provider: &Arc<CryptoProvider>,
    tls: &BackendTls,
    roots: Roots,
    own: Arc<OwnCertificate>,
) -> Result<BackendConfigs, String> {
    let name = ServerName::try_from(tls.hostname.to_string());
    let name = name.map_err(|error| format!("the policy's hostname: {error}"))?;
    let verifier = BackendServer {
        roots,
        alternative_names: tls.alternative_names.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .map_err(|error| error.to_string())?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(own);
    // A resumed session would skip the verification of the certificate, and keep the gateway's
    // earlier one.
    config.resumption = Resumption::disabled();
    let offering = |protocols: &[&[u8]]| {
        let mut config = config.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    };
    Ok(BackendConfigs {
        name,
        http2: offering(&[b"h2"]),
        http1: offering(&[b"http/1.1"]),
        either: offering(&[b"h2", b"http/1.1"]),
        bytes: offering(&[]),
    })
}

/// Returns the roots and their description. Unusable certificates are omitted: without roots,
/// nothing is trusted.
fn read_roots(roots: &BackendRoots) -> (Roots, String) {
    let pem = match roots {
        BackendRoots::System => {
            let anchors = webpki_roots::TLS_SERVER_ROOTS.to_vec();
            return (Roots { anchors }, "those that browsers trust".to_owned());
        }
        BackendRoots::Pem(pem) => pem,
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).flatten().collect();
    let (roots, unusable) = Roots::new(certificates.iter());
    let subjects = certificates.iter().take(MAX_NAMED_ROOTS).map(|root| {
        let parsed = X509Certificate::from_der(root);
        parsed.map_or("unreadable".to_owned(), |(_, root)| {
            root.subject.to_string()
        })
    });
    let subjects: Vec<String> = subjects.collect();
    let count = roots.anchors.len();
    let words = format!(
        "the policy's {count}, {unusable} unusable: {}",
        subjects.join("; ")
    );
    (roots, words)
}

/// Shows the gateway's certificate, the newest at each handshake.
#[derive(Debug)]
struct OwnCertificate(Arc<ArcSwapOption<CertifiedKey>>);

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    fn has_certs(&self) -> bool {
        self.0.load().is_some()
    }
}

/// The certificate has none of the accepted names.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the certificate is for {found}, and {expected} was expected")]
pub struct NameError {
    expected: String,
    found: String,
}

struct BackendServer {
    roots: Roots,
    /// Empty if the server name of the ClientHello is the one to check.
    alternative_names: Vec<AlternativeName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for BackendServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackendServer")
    }
}

impl BackendServer {
    /// Checks the names of a leaf whose chain has been verified.
    fn check_name(
        &self,
        leaf: &CertificateDer<'_>,
        hostname: &ServerName<'_>,
    ) -> Result<(), Error> {
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        let named = if self.alternative_names.is_empty() {
            let leaf = EndEntityCert::try_from(leaf);
            leaf.is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(hostname).is_ok())
        } else {
            let mut wanted = self.alternative_names.iter();
            wanted.any(|wanted| names.iter().any(|name| matches_name(wanted, name)))
        };
        if named {
            return Ok(());
        }
        let error = NameError {
            expected: self.expected(hostname),
            found: describe(names),
        };
        Err(Error::InvalidCertificate(CertificateError::Other(
            OtherError(Arc::new(error)),
        )))
    }

    fn expected(&self, hostname: &ServerName<'_>) -> String {
        let names = self.alternative_names.iter().map(|name| match name {
            AlternativeName::Dns(name) | AlternativeName::Uri(name) => &**name,
        });
        match names.collect::<Vec<_>>()[..] {
            [] => hostname.to_str().into_owned(),
            ref names => names.join(" or "),
        }
    }
}

fn describe(names: &[GeneralName<'_>]) -> String {
    let names = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some(*name),
        _ => None,
    });
    match names.take(5).collect::<Vec<_>>()[..] {
        [] => "no name".to_owned(),
        ref names => names.join(", "),
    }
}

/// Returns true if a name of a certificate is the accepted one.
fn matches_name(wanted: &AlternativeName, found: &GeneralName<'_>) -> bool {
    match (wanted, found) {
        (AlternativeName::Uri(wanted), GeneralName::URI(found)) => **wanted == **found,
        (AlternativeName::Dns(wanted), GeneralName::DNSName(found)) => {
            let is_name = |name: &str| name.parse::<weft_ir::HostPattern>().is_ok();
            wanted.eq_ignore_ascii_case(found)
                || (is_name(found) && (covers(wanted, found) || covers(found, wanted)))
        }
        _ => false,
    }
}

/// `*.example.com` matches names one label below `example.com` (RFC 9525, section 6.3).
fn covers(pattern: &str, name: &str) -> bool {
    let Some(parent) = pattern.strip_prefix("*.") else {
        return false;
    };
    let Some((label, rest)) = name.split_once('.') else {
        return false;
    };
    !label.is_empty() && label != "*" && rest.eq_ignore_ascii_case(parent)
}

impl ServerCertVerifier for BackendServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let usage = KeyUsage::server_auth();
        verify_chain(
            leaf,
            intermediates,
            &self.roots,
            now,
            usage,
            &self.algorithms,
        )?;
        self.check_name(leaf, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    signature_checks!(tls12, tls13);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_names_match_by_label() {
        for (wanted, found, taken) in [
            ("a.example.com", "a.example.com", true),
            ("A.example.com", "a.EXAMPLE.com", true),
            ("a.example.com", "*.example.com", true),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "*.example.com", true),
            ("a.b.example.com", "*.example.com", false),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "badexample.com", false),
            ("a.example.com", "*", false),
            ("example", "*.", false),
        ] {
            let wanted_name = AlternativeName::Dns(wanted.into());
            let is = matches_name(&wanted_name, &GeneralName::DNSName(found));
            assert_eq!(is, taken, "{wanted} and {found}");
            assert!(!matches_name(&wanted_name, &GeneralName::URI(found)));
        }
        let wanted = AlternativeName::Uri("spiffe://a/ns/b/sa/c".into());
        assert!(matches_name(
            &wanted,
            &GeneralName::URI("spiffe://a/ns/b/sa/c")
        ));
        assert!(!matches_name(
            &wanted,
            &GeneralName::URI("spiffe://a/ns/b/sa/cc")
        ));
        assert!(!matches_name(
            &wanted,
            &GeneralName::DNSName("spiffe://a/ns/b/sa/c")
        ));
    }
}

//! The webhook's certificate: generated here, shared by all replicas in a Secret, replaced while
//! serving.
//!
//! Each certificate is signed by its own CA, whose key is discarded at once, so that nobody can
//! sign another. The bundle has the CAs of the current certificate and of earlier ones that have
//! not expired, so that replicas that still serve an earlier one are trusted. The keeper writes to
//! Kubernetes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

/// How long before its issue a certificate is valid from, for clocks of API servers that are slow.
const BACKDATE: Duration = Duration::from_secs(300);

/// A certificate with its key and the CA bundle of its clients: the content of the Secret.
#[derive(Clone)]
pub(super) struct WebhookCertificate {
    chain_pem: String,
    key_pem: String,
    bundle_pem: String,
    not_after: OffsetDateTime,
    certified: Arc<CertifiedKey>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("generating a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    #[error("the Secret's key {0} is absent or not text")]
    Absent(&'static str),
    #[error("the Secret's key {key} has no usable PEM: {reason}")]
    Pem { key: &'static str, reason: String },
    #[error("certificate and key are not usable: {0}")]
    Unusable(rustls::Error),
}

impl std::fmt::Debug for WebhookCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WebhookCertificate {{ not_after: {} }}", self.not_after)
    }
}

impl WebhookCertificate {
    /// Generates a certificate for `dns_names`. Its bundle also has the CAs of `earlier` that have
    /// not expired.
    pub(super) fn generate(
        dns_names: &[String],
        lifetime: Duration,
        now: OffsetDateTime,
        earlier: Option<&WebhookCertificate>,
    ) -> Result<Self, CertificateError> {
        let (not_before, not_after) = (now - BACKDATE, now + lifetime);
        let mut authority = CertificateParams::default();
        authority
            .distinguished_name
            .push(DnType::CommonName, "weft-injector authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (authority.not_before, authority.not_after) = (not_before, not_after);
        let authority_key = KeyPair::generate()?;
        let mut bundle_pem = authority.self_signed(&authority_key)?.pem();

        let mut leaf = CertificateParams::new(dns_names)?;
        leaf.distinguished_name
            .push(DnType::CommonName, "weft-injector");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (leaf.not_before, leaf.not_after) = (not_before, not_after);
        let leaf_key = KeyPair::generate()?;
        let leaf = leaf.signed_by(&leaf_key, &Issuer::new(authority, authority_key))?;

        for old in earlier
            .map(|m| authorities(&m.bundle_pem))
            .unwrap_or_default()
        {
            if old.not_after > now {
                bundle_pem.push_str(&old.pem);
            }
        }
        Self::from_pem(leaf.pem(), leaf_key.serialize_pem(), bundle_pem)
    }

    /// Reads what [`WebhookCertificate::secret_data`] wrote.
    pub(super) fn from_secret(
        data: &BTreeMap<String, ByteString>,
    ) -> Result<Self, CertificateError> {
        let text = |key: &'static str| {
            let bytes = data.get(key).ok_or(CertificateError::Absent(key))?;
            String::from_utf8(bytes.0.clone()).map_err(|_| CertificateError::Absent(key))
        };
        Self::from_pem(text("tls.crt")?, text("tls.key")?, text("ca.crt")?)
    }

    fn from_pem(
        chain_pem: String,
        key_pem: String,
        bundle_pem: String,
    ) -> Result<Self, CertificateError> {
        let bad = |key, reason: &dyn std::fmt::Display| CertificateError::Pem {
            key,
            reason: reason.to_string(),
        };
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain_pem.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|e| bad("tls.crt", &e))?;
        let leaf = chain
            .first()
            .ok_or_else(|| bad("tls.crt", &"no certificate"))?;
        let not_after = x509_parser::parse_x509_certificate(leaf)
            .map_err(|e| bad("tls.crt", &e))?
            .1
            .validity()
            .not_after
            .to_datetime();
        let key =
            PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| bad("tls.key", &e))?;
        if authorities(&bundle_pem).is_empty() {
            return Err(bad("ca.crt", &"no certificate"));
        }
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
            .map_err(CertificateError::Unusable)?;
        Ok(Self {
            chain_pem,
            key_pem,
            bundle_pem,
            not_after,
            certified: Arc::new(certified),
        })
    }

    /// Data of a Secret of type `kubernetes.io/tls`.
    pub(super) fn secret_data(&self) -> BTreeMap<String, ByteString> {
        [
            ("tls.crt", &self.chain_pem),
            ("tls.key", &self.key_pem),
            ("ca.crt", &self.bundle_pem),
        ]
        .into_iter()
        .map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes())))
        .collect()
    }

    /// Returns the CA bundle as PEM.
    pub(super) fn bundle(&self) -> &str {
        &self.bundle_pem
    }

    pub(super) fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// Returns true if less than 30 % of `lifetime` remains, or more than `lifetime`: then the
    /// setting was shortened since. The tolerance is for different clocks of replicas.
    pub(super) fn is_due(&self, lifetime: Duration, now: OffsetDateTime) -> bool {
        let left = self.not_after - now;
        left < lifetime.mul_f64(0.3) || left > lifetime + BACKDATE
    }

    /// Returns true if both are the same certificate.
    pub(super) fn same(&self, other: &WebhookCertificate) -> bool {
        self.chain_pem == other.chain_pem
    }
}

struct Authority {
    pem: String,
    not_after: OffsetDateTime,
}

/// Returns the valid certificates of a bundle.
fn authorities(bundle: &str) -> Vec<Authority> {
    x509_parser::pem::Pem::iter_from_buffer(bundle.as_bytes())
        .filter_map(|pem| {
            let pem = pem.ok()?;
            let not_after = pem.parse_x509().ok()?.validity().not_after.to_datetime();
            Some(Authority {
                pem: encode(&pem.contents),
                not_after,
            })
        })
        .collect()
}

fn encode(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The certificate that is served; none until the API server trusts it.
#[derive(Debug, Default)]
pub(super) struct ServedCertificate(ArcSwapOption<CertifiedKey>);

impl ServedCertificate {
    pub(super) fn set(&self, material: &WebhookCertificate) {
        self.0.store(Some(material.certified.clone()));
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load().is_some()
    }
}

impl ResolvesServerCert for ServedCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn names() -> Vec<String> {
        vec!["weft-injector.weft-system.svc".to_owned()]
    }

    #[test]
    fn secret_data_round_trips() {
        let made =
            WebhookCertificate::generate(&names(), DAY, OffsetDateTime::now_utc(), None).unwrap();
        let read = WebhookCertificate::from_secret(&made.secret_data()).unwrap();
        assert!(made.same(&read));
        assert_eq!(made.not_after(), read.not_after());
    }

    #[test]
    fn renewal_is_due_at_70_percent() {
        let now = OffsetDateTime::now_utc();
        let made = WebhookCertificate::generate(&names(), DAY, now, None).unwrap();
        assert!(!made.is_due(DAY, now + DAY.mul_f64(0.69)));
        assert!(made.is_due(DAY, now + DAY.mul_f64(0.71)));
        assert!(made.is_due(DAY / 2, now), "the life was shortened");
        assert!(
            !made.is_due(DAY, now - Duration::from_secs(60)),
            "a slow clock"
        );
    }

    #[test]
    fn earlier_cas_are_trusted_until_they_expire() {
        let now = OffsetDateTime::now_utc();
        let first = WebhookCertificate::generate(&names(), DAY, now, None).unwrap();
        let second =
            WebhookCertificate::generate(&names(), DAY * 3, now + DAY / 2, Some(&first)).unwrap();
        assert_eq!(authorities(second.bundle()).len(), 2);
        let third =
            WebhookCertificate::generate(&names(), DAY, now + DAY * 2, Some(&second)).unwrap();
        assert_eq!(
            authorities(third.bundle()).len(),
            2,
            "the first one has expired"
        );
        assert!(!third.bundle().contains(first.bundle().trim()));
    }

    #[test]
    fn bundle_verifies_the_certificate() {
        let made =
            WebhookCertificate::generate(&names(), DAY, OffsetDateTime::now_utc(), None).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(made.bundle().as_bytes()) {
            roots.add(root.unwrap()).unwrap();
        }
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::new(aws_lc_rs::default_provider()),
        )
        .build()
        .unwrap();
        let verify = |name: &'static str| {
            rustls::client::danger::ServerCertVerifier::verify_server_cert(
                &*verifier,
                &made.certified.cert[0],
                &[],
                &name.try_into().unwrap(),
                &[],
                rustls_pki_types::UnixTime::now(),
            )
        };
        verify("weft-injector.weft-system.svc").unwrap();
        verify("other.weft-system.svc").unwrap_err();
    }

    #[test]
    fn invalid_secret_is_an_error_that_names_the_key() {
        let made =
            WebhookCertificate::generate(&names(), DAY, OffsetDateTime::now_utc(), None).unwrap();
        for key in ["tls.crt", "tls.key", "ca.crt"] {
            for garbage in [b"".to_vec(), b"garbage".to_vec(), vec![0xff; 32]] {
                let mut data = made.secret_data();
                data.insert(key.to_owned(), ByteString(garbage));
                let error = WebhookCertificate::from_secret(&data)
                    .unwrap_err()
                    .to_string();
                assert!(error.contains(key), "{error}");
            }
        }
        let other =
            WebhookCertificate::generate(&names(), DAY, OffsetDateTime::now_utc(), None).unwrap();
        let mut data = made.secret_data();
        data.insert("tls.key".to_owned(), other.secret_data()["tls.key"].clone());
        WebhookCertificate::from_secret(&data)
            .expect_err("a key that does not fit its certificate");
    }
}

//! The certificate authority: a root or an intermediate with its key, and the certificates that it
//! signs.
//!
//! Pure: the time is an argument, and nothing here depends on Kubernetes. `csr` and `review` decide
//! what a requester may obtain; `store` keeps the key.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use weft_ir::Identity;

use super::bundle::Bundle;
use super::chain::{self, Validity};
use super::load_error::LoadError;

/// How long before its issue a certificate is valid from, for clocks that are slow.
const BACKDATE: Duration = Duration::from_secs(60);
/// The lifetime of a generated root: ten years.
const ROOT_LIFETIME: time::Duration = time::Duration::days(3652);

/// A signing key with its certificate and the chain from there to a root.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// From the signer's certificate up to, but excluding, the root; empty when the root itself
    /// signs.
    intermediates: Vec<CertificateDer<'static>>,
    root: CertificateDer<'static>,
    /// The period in which every certificate of the chain is valid.
    validity: Validity,
}

/// A signed certificate.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The leaf, then the intermediates; excludes the root.
    pub chain: Vec<CertificateDer<'static>>,
    pub not_after: OffsetDateTime,
}

/// A new root as PEM: `tls.crt` and `tls.key` (PKCS#8) of the Secret.
pub struct RootPem {
    pub certificate: String,
    pub key: String,
}

/// The authority cannot sign.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SignError {
    #[error(
        "the authority's certificate is valid only from {from} to {to}; check the clock, or \
         replace the root"
    )]
    OutsideValidity {
        from: OffsetDateTime,
        to: OffsetDateTime,
    },
    #[error("signing: {0}")]
    Crypto(#[from] rcgen::Error),
    #[error("signing: {0}")]
    Key(#[source] rustls::Error),
    #[error("signing: the operating system returned no random bytes")]
    NoRandomBytes,
}

/// Why a certificate signed by an authority does not verify.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum SelfCheckError {
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Crypto(#[from] rcgen::Error),
    #[error(transparent)]
    Verify(#[from] webpki::Error),
    #[error("it signed an empty chain")]
    EmptyChain,
}

/// Generates an ECDSA P-256 root, valid for ten years.
pub fn new_root(now: OffsetDateTime) -> Result<RootPem, SignError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "weft root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATE;
    params.not_after = now + ROOT_LIFETIME;
    params.serial_number = Some(random_serial()?);
    Ok(RootPem {
        certificate: params.self_signed(&key)?.pem(),
        key: key.serialize_pem(),
    })
}

impl Authority {
    /// Reads a signing certificate with its chain (PEM, signer first, the root last or among
    /// `additional`) and its key (PEM; ECDSA P-256 or P-384, or RSA of 2048 bits or more), and
    /// checks that a certificate signed with it verifies.
    pub fn load(
        certificates: &[u8],
        key: &[u8],
        additional: &Bundle,
        now: OffsetDateTime,
    ) -> Result<Self, LoadError> {
        let key = chain::read_key(key)?;
        let parsed = chain::read_chain(certificates, &key, additional, now)?;
        let issuer = Issuer::from_ca_cert_der(&parsed.signer, key)
            .map_err(|error| LoadError::Unusable(error.into()))?;
        let authority = Self {
            issuer,
            intermediates: parsed.intermediates,
            root: parsed.root,
            validity: parsed.validity,
        };
        authority.self_check(now)?;
        Ok(authority)
    }

    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// When the first certificate of the chain expires, and with it every certificate that the
    /// authority signed.
    pub fn not_after(&self) -> OffsetDateTime {
        self.validity.to
    }

    /// Signs a certificate whose only name is the identity.
    pub fn sign(
        &self,
        key: &impl PublicKeyData,
        identity: &Identity,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, SignError> {
        self.certify(key, vec![uri(identity)?], lifetime, now)
    }

    /// Signs a certificate for a server of the control plane, with DNS names beside its identity.
    pub fn sign_server(
        &self,
        key: &impl PublicKeyData,
        identity: &Identity,
        dns_names: &[String],
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, SignError> {
        let mut names = vec![uri(identity)?];
        for name in dns_names {
            names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        self.certify(key, names, lifetime, now)
    }

    fn certify(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Issued, SignError> {
        if now < self.validity.from || now >= self.validity.to {
            return Err(SignError::OutsideValidity {
                from: self.validity.from,
                to: self.validity.to,
            });
        }
        let not_after = now
            .checked_add(time::Duration::try_from(lifetime).unwrap_or(time::Duration::MAX))
            .map_or(self.validity.to, |end| end.min(self.validity.to));
        let mut params = CertificateParams::default();
        // Without a subject, rcgen marks the alternative name critical, as RFC 5280 section 4.2.1.6
        // requires.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - BACKDATE).max(self.validity.from);
        params.not_after = not_after;
        params.serial_number = Some(random_serial()?);
        let leaf = params.signed_by(key, &self.issuer)?;
        let chain = std::iter::once(leaf.der().clone())
            .chain(self.intermediates.iter().cloned())
            .collect();
        Ok(Issued { chain, not_after })
    }

    /// Signs a certificate and verifies it as a peer would, so that a broken chain is found when it
    /// is loaded.
    fn self_check(&self, now: OffsetDateTime) -> Result<(), LoadError> {
        let roots = Bundle::of([self.root.clone()])?;
        let verifies = || {
            let key = KeyPair::generate()?;
            let name = SanType::URI("spiffe://try.out/ns/a/sa/a".try_into()?);
            let issued = self.certify(&key, vec![name], Duration::from_secs(60), now)?;
            let Some((leaf, intermediates)) = issued.chain.split_first() else {
                return Err(SelfCheckError::EmptyChain);
            };
            for usage in [
                webpki::KeyUsage::client_auth(),
                webpki::KeyUsage::server_auth(),
            ] {
                roots.verify(leaf, intermediates, usage, now)?;
            }
            Ok(())
        };
        verifies().map_err(LoadError::Unusable)
    }
}

fn uri(identity: &Identity) -> Result<SanType, SignError> {
    Ok(SanType::URI(identity.to_string().as_str().try_into()?))
}

/// 126 random bits, positive and not zero (RFC 5280 section 4.1.2.2).
fn random_serial() -> Result<SerialNumber, SignError> {
    let mut bytes = [0u8; 16];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| SignError::NoRandomBytes)?;
    bytes[0] = (bytes[0] & 0x3f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

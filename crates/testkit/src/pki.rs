//! A test root, with leaf certificates that are valid or broken in one way.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, SanType,
};
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use weft_ir::Identity;

/// A self-signed root.
pub struct Pki {
    root: CertifiedIssuer<'static, KeyPair>,
}

/// The content of a leaf certificate. Valid by default; tests break one property.
#[derive(Clone, Debug)]
pub struct LeafSpec {
    pub uris: Vec<String>,
    pub dns: Vec<String>,
    pub common_name: Option<String>,
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl LeafSpec {
    /// Valid for a day, for clients and servers.
    pub fn new(identity: &Identity) -> Self {
        Self {
            uris: vec![identity.to_string()],
            ..Self::of_hosts(&[])
        }
    }

    /// A certificate for these DNS names.
    pub fn of_hosts(names: &[&str]) -> Self {
        let now = SystemTime::now();
        Self {
            uris: Vec::new(),
            dns: names.iter().map(|name| (*name).to_owned()).collect(),
            common_name: None,
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            not_before: now - Duration::from_secs(60),
            not_after: now + Duration::from_secs(24 * 3600),
        }
    }

    pub fn expired(mut self) -> Self {
        self.not_after = SystemTime::now() - Duration::from_secs(30);
        self
    }

    pub fn not_yet_valid(mut self) -> Self {
        self.not_before = SystemTime::now() + Duration::from_secs(600);
        self
    }

    pub fn with_uri(mut self, uri: &str) -> Self {
        self.uris.push(uri.to_owned());
        self
    }

    pub fn without_uris(mut self) -> Self {
        self.uris.clear();
        self
    }

    pub fn with_common_name(mut self, name: &str) -> Self {
        self.common_name = Some(name.to_owned());
        self
    }

    pub fn only(mut self, usage: ExtendedKeyUsagePurpose) -> Self {
        self.usages = vec![usage];
        self
    }

    fn params(&self) -> Result<CertificateParams> {
        let mut params = CertificateParams::new(self.dns.clone())?;
        for uri in &self.uris {
            let uri = SanType::URI(uri.as_str().try_into()?);
            params.subject_alt_names.push(uri);
        }
        params.extended_key_usages = self.usages.clone();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = &self.common_name {
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
        }
        Ok(params)
    }
}

/// The key type of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKey {
    Ecdsa,
    Rsa,
}

/// A certificate with its key.
pub struct Leaf {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub chain_pem: String,
    pub key_pem: String,
}

impl Leaf {
    /// Returns the pair in the form that rustls uses.
    pub fn certified(&self) -> Result<rustls::sign::CertifiedKey> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = provider
            .key_provider
            .load_private_key(self.key.clone_key())?;
        Ok(rustls::sign::CertifiedKey::new(self.chain.clone(), key))
    }
}

impl Pki {
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = rcgen::DistinguishedName::new();
        let key = KeyPair::generate()?;
        // Two roots in one test must have different names.
        let name = format!("weft test root {:02x?}", &key.public_key_raw()[1..9]);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let root = CertifiedIssuer::self_signed(params, key)?;
        Ok(Self { root })
    }

    pub fn root(&self) -> CertificateDer<'static> {
        self.root.der().clone()
    }

    pub fn root_pem(&self) -> String {
        self.root.pem()
    }

    /// Issues a leaf certificate with a new key.
    pub fn issue(&self, spec: &LeafSpec) -> Result<Leaf> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = spec.params()?.signed_by(&key, &self.root)?;
        Ok(Leaf {
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Issues a certificate for these hosts, as a gateway has them.
    pub fn server(&self, names: &[&str], kind: ServerKey) -> Result<weft_ir::KeyPair> {
        let mut spec = LeafSpec::of_hosts(names);
        spec.usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate_for(match kind {
            ServerKey::Ecdsa => &PKCS_ECDSA_P256_SHA256,
            ServerKey::Rsa => &PKCS_RSA_SHA256,
        })?;
        let certificate = spec.params()?.signed_by(&key, &self.root)?;
        Ok(weft_ir::KeyPair {
            chain: certificate.pem().into_bytes().into(),
            key: key.serialize_pem().into_bytes().into(),
        })
    }

    /// Issues a valid leaf certificate for this identity.
    pub fn leaf(&self, identity: &Identity) -> Result<Leaf> {
        self.issue(&LeafSpec::new(identity))
    }

    /// Signs a CSR with this lifetime.
    ///
    /// # Errors
    ///
    /// If its signature is invalid, or if it does not name exactly `identity`.
    pub fn sign(
        &self,
        csr: &[u8],
        identity: &Identity,
        lifetime: Duration,
    ) -> Result<CertificateDer<'static>> {
        let csr = CertificateSigningRequestDer::from(csr);
        let mut csr = CertificateSigningRequestParams::from_der(&csr).context("the CSR")?;
        let wanted = SanType::URI(identity.to_string().as_str().try_into()?);
        anyhow::ensure!(
            csr.params.subject_alt_names == [wanted],
            "the CSR is for {:?} instead of {identity}",
            csr.params.subject_alt_names
        );
        let mut spec = LeafSpec::new(identity);
        spec.not_after = SystemTime::now() + lifetime;
        csr.params = spec.params()?;
        Ok(csr.signed_by(&self.root)?.der().clone())
    }
}

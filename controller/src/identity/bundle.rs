//! Sets of root certificates, and the verification of chains against them. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use time::OffsetDateTime;

use super::chain;
use super::load_error::LoadError;

/// An ordered set of root certificates.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    roots: Vec<Root>,
}

#[derive(Clone, Debug)]
struct Root {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    not_after: OffsetDateTime,
}

impl Bundle {
    /// Parses a PEM list; an empty text is an empty bundle. `what` names the source in errors.
    pub fn from_pem(what: &'static str, pem: &[u8]) -> Result<Self, LoadError> {
        Self::build(what, chain::read_pem(what, pem)?)
    }

    /// Returns an error if one of them is not a CA certificate.
    pub fn of(roots: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<Self, LoadError> {
        Self::build("the bundle", roots)
    }

    fn build(
        what: &'static str,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, LoadError> {
        let mut bundle = Self::default();
        for (index, der) in roots.into_iter().enumerate() {
            let not_after = chain::to(&chain::parse_authority(what, index + 1, &der)?);
            let anchor = webpki::anchor_from_trusted_cert(&der)
                .map_err(|e| LoadError::Certificate {
                    what,
                    place: index + 1,
                    reason: e.to_string(),
                })?
                .to_owned();
            bundle.add(Root {
                der,
                anchor,
                not_after,
            });
        }
        Ok(bundle)
    }

    fn contains(&self, root: &Root) -> bool {
        self.roots.iter().any(|known| known.der == root.der)
    }

    fn add(&mut self, root: Root) {
        if !self.contains(&root) {
            self.roots.push(root);
        }
    }

    /// Appends the roots of `other` that are not in the bundle.
    pub fn union(mut self, other: &Self) -> Self {
        for root in &other.roots {
            self.add(root.clone());
        }
        self
    }

    /// Removes expired roots.
    pub fn unexpired(mut self, now: OffsetDateTime) -> Self {
        self.roots.retain(|root| now < root.not_after);
        self
    }

    /// Keeps the first `max` roots.
    pub fn truncated(mut self, max: usize) -> Self {
        self.roots.truncate(max);
        self
    }

    /// Removes the roots of `other`.
    pub fn difference(mut self, other: &Self) -> Self {
        self.roots.retain(|root| !other.contains(root));
        self
    }

    pub fn valid_at(&self, now: OffsetDateTime) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.roots
            .iter()
            .filter(move |root| now < root.not_after)
            .map(|root| &root.der)
    }

    pub fn len(&self) -> usize {
        self.roots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Returns the roots as PEM, 64 characters in each line (RFC 7468). The same bundle gives the
    /// same text.
    pub fn pem(&self, now: OffsetDateTime) -> String {
        let mut text = String::new();
        for der in self.valid_at(now) {
            text.push_str("-----BEGIN CERTIFICATE-----\n");
            let mut body = STANDARD.encode(der);
            while !body.is_empty() {
                let rest = body.split_off(body.len().min(64));
                text.push_str(&body);
                text.push('\n');
                body = rest;
            }
            text.push_str("-----END CERTIFICATE-----\n");
        }
        text
    }

    /// Verifies a chain up to a root that is valid at `now`.
    pub fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: webpki::KeyUsage,
        now: OffsetDateTime,
    ) -> Result<(), webpki::Error> {
        let anchors: Vec<TrustAnchor<'_>> = self
            .roots
            .iter()
            .filter(|root| now < root.not_after)
            .map(|root| root.anchor.clone())
            .collect();
        let since_epoch = u64::try_from(now.unix_timestamp()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(since_epoch));
        webpki::EndEntityCert::try_from(leaf)?
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map(|_| ())
    }
}

//! What the mesh trusts now: the list of roots, and the authority that signs under one of them.
//!
//! Pure values. They reach their readers over a watch channel, so that a reader sees one whole state or the next.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use time::OffsetDateTime;
use tokio::sync::watch;
use weft_ir::TrustedRoots;

use super::ca::Authority;
use super::chain::{self, LoadError};

/// The authority that signs, and every root that is trusted, its own first.
pub struct Trust {
    pub authority: Authority,
    pub roots: Bundle,
    /// How far the root is with being replaced.
    pub phase: Phase,
    /// Roots that signed before, as long as they last and are not withdrawn: what they signed is still about.
    former: Bundle,
    withdrawn: Bundle,
}

/// How far a rotation of the root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    Steady,
    /// The root to come is made known beside the one that signs.
    Distributing { next: CertificateDer<'static> },
    /// The new root signs; the one before is trusted until all that it signed is renewed.
    Renewing,
}

impl Phase {
    /// As users see it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Distributing { .. } => "distributing",
            Self::Renewing => "renewing",
        }
    }
}

impl Trust {
    /// `further` are roots to trust beside the authority's own.
    pub fn new(authority: Authority, further: &Bundle) -> Result<Self, LoadError> {
        Ok(Self {
            roots: Bundle::of([authority.root().clone()])?.and(further),
            authority,
            phase: Phase::Steady,
            former: Bundle::default(),
            withdrawn: Bundle::default(),
        })
    }

    /// With a root that is to sign, roots that signed before, and roots that are trusted no longer.
    pub fn rotating(
        mut self,
        next: Option<&Authority>,
        previous: &Bundle,
        withdrawn: Bundle,
    ) -> Result<Self, LoadError> {
        if let Some(next) = next {
            let next = next.root().clone();
            self.roots = self.roots.and(&Bundle::of([next.clone()])?);
            self.phase = Phase::Distributing { next };
        } else if !previous.is_empty() {
            self.phase = Phase::Renewing;
        }
        self.roots = self.roots.and(previous);
        self.withdrawn = withdrawn;
        Ok(self)
    }

    /// The root that all are to end up with.
    pub fn target(&self) -> &CertificateDer<'static> {
        match &self.phase {
            Phase::Distributing { next } => next,
            Phase::Steady | Phase::Renewing => self.authority.root(),
        }
    }

    /// Roots that signed before in this process' time, as far as they are neither withdrawn nor ended.
    pub fn former(&self) -> &Bundle {
        &self.former
    }

    /// What proxies are told.
    pub fn told(&self, now: OffsetDateTime) -> TrustedRoots {
        let signer = self.authority.root();
        let further = self.roots.valid_at(now).filter(|root| *root != signer);
        TrustedRoots {
            signer: signer.to_vec(),
            further: further.map(|root| root.to_vec()).collect(),
        }
    }

    /// This one in place of `earlier`, whose signing roots go on being trusted until they end or are withdrawn.
    pub fn after(mut self, earlier: &Self, now: OffsetDateTime) -> Result<Self, LoadError> {
        let signed = Bundle::of([earlier.authority.root().clone()])?;
        let own = Bundle::of([self.authority.root().clone()])?;
        let gone = self.withdrawn.clone().and(&own);
        let former = earlier.former.clone().and(&signed);
        self.former = former.unexpired(now).without(&gone);
        self.roots = self.roots.and(&self.former);
        Ok(self)
    }
}

/// Follows [`Trust`] as it changes.
pub type TrustReceiver = watch::Receiver<Arc<Trust>>;

/// Root certificates, each once, in order.
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
    /// Reads a PEM list; an empty text is an empty bundle. `what` names the source in errors.
    pub fn from_pem(what: &'static str, pem: &[u8]) -> Result<Self, LoadError> {
        Self::build(what, chain::read_pem(what, pem)?)
    }

    /// Errors when one of them is no authority's certificate.
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

    fn add(&mut self, root: Root) {
        if !self.roots.iter().any(|known| known.der == root.der) {
            self.roots.push(root);
        }
    }

    /// These, then those of `other` that are not yet among them.
    pub fn and(mut self, other: &Self) -> Self {
        for root in &other.roots {
            self.add(root.clone());
        }
        self
    }

    /// Without those that have ended.
    pub fn unexpired(mut self, now: OffsetDateTime) -> Self {
        self.roots.retain(|root| now < root.not_after);
        self
    }

    /// The first of them.
    pub fn first(mut self, most: usize) -> Self {
        self.roots.truncate(most);
        self
    }

    /// Without those of `other`.
    pub fn without(mut self, other: &Self) -> Self {
        let others = |root: &Root| other.roots.iter().any(|gone| gone.der == root.der);
        self.roots.retain(|root| !others(root));
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

    /// The roots as PEM, 64 characters a line (RFC 7468), the same text for the same bundle.
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

    /// Verifies a chain up to one of the roots valid at `now`.
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

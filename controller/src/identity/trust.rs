//! What the mesh trusts: the roots, and the authority that signs under one of them.
//!
//! Pure values, published on a watch channel, so that readers see one consistent state.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::sync::watch;
use weft_ir::TrustedRoots;

use super::bundle::Bundle;
use super::ca::Authority;
use super::load_error::LoadError;

/// The authority that signs, and every root that is trusted, its own first.
pub struct Trust {
    pub authority: Authority,
    pub roots: Bundle,
    /// The phase of a rotation of the root.
    pub phase: Phase,
    /// Roots that signed earlier, until they expire or are withdrawn: certificates that they signed
    /// are still in use.
    former: Bundle,
    withdrawn: Bundle,
}

/// The phase of a rotation of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No rotation is under way.
    Steady,
    /// The next root is distributed beside the one that signs.
    Distributing { next: CertificateDer<'static> },
    /// The new root signs; the previous one is trusted until every certificate that it signed is
    /// renewed.
    Renewing,
}

impl Phase {
    /// The names of all phases.
    pub(super) const NAMES: [&'static str; 3] = ["steady", "distributing", "renewing"];

    /// The name of the phase in annotations, Events, logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Distributing { .. } => "distributing",
            Self::Renewing => "renewing",
        }
    }
}

impl Trust {
    /// `additional` are trusted roots beside the authority's own.
    pub fn new(authority: Authority, additional: &Bundle) -> Result<Self, LoadError> {
        Ok(Self {
            roots: Bundle::of([authority.root().clone()])?.union(additional),
            authority,
            phase: Phase::Steady,
            former: Bundle::default(),
            withdrawn: Bundle::default(),
        })
    }

    /// Adds the next root, the roots that signed earlier, and the withdrawn roots.
    pub fn rotating(
        mut self,
        next: Option<&Authority>,
        previous: &Bundle,
        withdrawn: Bundle,
    ) -> Result<Self, LoadError> {
        if let Some(next) = next {
            let next = next.root().clone();
            self.roots = self.roots.union(&Bundle::of([next.clone()])?);
            self.phase = Phase::Distributing { next };
        } else if !previous.is_empty() {
            self.phase = Phase::Renewing;
        }
        self.roots = self.roots.union(previous);
        self.withdrawn = withdrawn;
        Ok(self)
    }

    /// Returns the root that signs at the end of the phase.
    pub fn target(&self) -> &CertificateDer<'static> {
        match &self.phase {
            Phase::Distributing { next } => next,
            Phase::Steady | Phase::Renewing => self.authority.root(),
        }
    }

    /// Returns the roots that signed earlier during this process and are neither withdrawn nor
    /// expired.
    pub fn former(&self) -> &Bundle {
        &self.former
    }

    /// Returns the roots as they are sent to proxies.
    pub fn trusted_roots(&self, now: OffsetDateTime) -> TrustedRoots {
        let signer = self.authority.root();
        let additional = self.roots.valid_at(now).filter(|root| *root != signer);
        TrustedRoots {
            signer: signer.to_vec(),
            additional: additional.map(|root| root.to_vec()).collect(),
        }
    }

    /// Returns this state as the successor of `earlier`, whose signing roots stay trusted until
    /// they expire or are withdrawn.
    pub fn succeeding(mut self, earlier: &Self, now: OffsetDateTime) -> Result<Self, LoadError> {
        let signed = Bundle::of([earlier.authority.root().clone()])?;
        let own = Bundle::of([self.authority.root().clone()])?;
        let withdrawn = self.withdrawn.clone().union(&own);
        let former = earlier.former.clone().union(&signed);
        self.former = former.unexpired(now).difference(&withdrawn);
        self.roots = self.roots.union(&self.former);
        Ok(self)
    }
}

/// Receives every change of [`Trust`].
pub type TrustReceiver = watch::Receiver<Arc<Trust>>;

//! The current certificate and the roots for verifying peers, replaced together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwapOption, Guard};
use rustls::sign::CertifiedKey;
use rustls_pki_types::TrustAnchor;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_ir::TrustedRoots;

use super::trusted::{Root, RootSources};

/// A certificate with its key, and the roots for verifying peers.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub key: Arc<CertifiedKey>,
    pub roots: Arc<Roots>,
    /// The root of the certificate.
    pub root: Option<Root>,
    /// Unix seconds.
    pub not_before: i64,
    pub not_after: i64,
}

/// Trusted roots.
#[derive(Debug, Default)]
pub struct Roots {
    pub anchors: Vec<TrustAnchor<'static>>,
}

impl Roots {
    /// Returns the roots without duplicates, and the number of unusable certificates.
    pub fn new<'a>(certificates: impl Iterator<Item = &'a Root>) -> (Self, usize) {
        let mut seen: Vec<&Root> = Vec::new();
        let mut roots = Self::default();
        let mut unusable = 0;
        for certificate in certificates {
            if seen.contains(&certificate) {
                continue;
            }
            seen.push(certificate);
            match webpki::anchor_from_trusted_cert(certificate) {
                Ok(anchor) => roots.anchors.push(anchor.to_owned()),
                Err(_) => unusable += 1,
            }
        }
        (roots, unusable)
    }
}

/// Why a certificate should be replaced early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outdated {
    /// The controller signs with another root, as reported on the stream.
    OtherSigner,
    /// The newest source of roots does not contain its root.
    RootGone,
    /// The controller rejected it.
    Refused,
}

/// The current credentials, read by every handshake without a lock. Clones share them.
#[derive(Clone, Debug)]
pub struct CurrentCredentials {
    current: Arc<ArcSwapOption<Credentials>>,
    sources: Arc<Mutex<RootSources>>,
    /// The key of a certificate that the controller rejected.
    refused: Arc<ArcSwapOption<CertifiedKey>>,
    /// Notified of each change of the certificate, the roots, and the signer.
    changes: Arc<watch::Sender<()>>,
}

impl Default for CurrentCredentials {
    fn default() -> Self {
        Self {
            current: Arc::default(),
            sources: Arc::default(),
            refused: Arc::default(),
            changes: Arc::new(watch::Sender::new(())),
        }
    }
}

impl CurrentCredentials {
    /// Returns the credentials; `None` until the first certificate.
    pub fn load(&self) -> Guard<Option<Arc<Credentials>>> {
        self.current.load()
    }

    /// Like [`Self::load`], for keeping the credentials.
    pub fn load_full(&self) -> Option<Arc<Credentials>> {
        self.current.load_full()
    }

    /// Resolves once the current credentials are not `shown`.
    pub async fn wait_replaced(&self, shown: Option<&Arc<Credentials>>) {
        let mut changes = self.changes();
        while self.load().as_ref().map(Arc::as_ptr) == shown.map(Arc::as_ptr) {
            // The sender lives in `self`: waiting cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// Records that the controller rejected the certificate of `shown`.
    pub fn mark_refused(&self, shown: &Credentials) {
        self.refused.store(Some(shown.key.clone()));
        self.changes.send_replace(());
    }

    /// Sets the credentials for new handshakes. Open connections are not affected.
    pub fn set(&self, credentials: Credentials) {
        self.current.store(Some(Arc::new(credentials)));
        self.changes.send_replace(());
    }

    /// Resolves once there is a certificate.
    pub async fn wait_present(&self) {
        let mut changes = self.changes();
        while self.load().is_none() {
            // The sender lives in `self`: waiting cannot fail.
            let _ = changes.changed().await;
        }
    }

    /// Returns a receiver that is notified of each change.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Sets the current certificate. Its roots are the trusted ones together with `signed`; those
    /// in `credentials` are ignored.
    pub fn install(&self, credentials: Credentials, signed: Vec<Root>) {
        let mut sources = self.sources();
        sources.set_signed_roots(signed, Instant::now());
        let (roots, _) = Roots::new(sources.in_force());
        self.set(Credentials {
            roots: Arc::new(roots),
            ..credentials
        });
    }

    /// Sets the roots of the file. Returns true if the trusted roots changed.
    pub fn set_file_roots(&self, roots: Vec<Root>) -> bool {
        let mut sources = self.sources();
        sources.set_file_roots(roots, Instant::now()) && self.renew_roots(&sources)
    }

    /// Sets the roots of the stream.
    ///
    /// # Errors
    ///
    /// If the root that signs is not usable.
    pub fn set_stream_roots(&self, roots: &TrustedRoots) -> Result<(), &'static str> {
        let all = std::iter::once(&roots.signer).chain(&roots.additional);
        let all: Vec<Root> = all.map(|der| Root::from(der.clone())).collect();
        Self::check(roots)?;
        let mut sources = self.sources();
        sources.set_stream_roots(all, Instant::now());
        self.renew_roots(&sources);
        Ok(())
    }

    /// Checks whether [`Self::set_stream_roots`] accepts the roots.
    pub fn check(roots: &TrustedRoots) -> Result<(), &'static str> {
        let signer = Root::from(roots.signer.clone());
        let (_, unusable) = Roots::new(std::iter::once(&signer));
        (unusable == 0)
            .then_some(())
            .ok_or("roots.signer is no usable certificate")
    }

    /// Removes the roots of the stream.
    pub fn clear_stream_roots(&self) {
        let mut sources = self.sources();
        sources.clear_stream_roots();
        self.renew_roots(&sources);
    }

    /// Sets whether there is a stream.
    pub fn set_connected(&self, connected: bool) {
        let mut sources = self.sources();
        if sources.set_connected(connected) {
            self.renew_roots(&sources);
        }
    }

    /// Returns the trusted roots, whether there is a certificate or not.
    pub fn roots(&self) -> Arc<Roots> {
        Arc::new(Roots::new(self.sources().in_force()).0)
    }

    /// Returns why the certificate should be replaced early, if it should.
    pub fn outdated(&self) -> Option<Outdated> {
        let sources = self.sources();
        let current = self.load();
        let current = current.as_ref()?;
        let refused = self.refused.load();
        if refused
            .as_ref()
            .is_some_and(|key| Arc::ptr_eq(key, &current.key))
        {
            return Some(Outdated::Refused);
        }
        let root = current.root.as_ref()?;
        if sources.signer().is_some_and(|signer| signer != root) {
            return Some(Outdated::OtherSigner);
        }
        (!sources.holds(root)).then_some(Outdated::RootGone)
    }

    /// Updates the roots of the current credentials. Returns true if they changed.
    fn renew_roots(&self, sources: &RootSources) -> bool {
        let Some(current) = self.load().clone() else {
            return false;
        };
        let (roots, unusable) = Roots::new(sources.in_force());
        let changed = roots.anchors != current.roots.anchors;
        if changed {
            tracing::info!(
                roots = roots.anchors.len(),
                unusable,
                "the roots have changed"
            );
            self.set(Credentials {
                roots: Arc::new(roots),
                ..(*current).clone()
            });
        } else {
            // The signer may have changed.
            self.changes.send_replace(());
        }
        changed
    }

    fn sources(&self) -> MutexGuard<'_, RootSources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the Unix time in seconds by this node's clock.
pub fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

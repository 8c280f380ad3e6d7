//! The certificate in force and the roots that peers are checked against, swapped as one.

use std::sync::Arc;

use arc_swap::{ArcSwapOption, Guard};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use tokio::sync::watch;

/// One certificate with its key, and what peers must be signed by.
#[derive(Debug)]
pub struct Credentials {
    pub key: Arc<CertifiedKey>,
    pub roots: Arc<Roots>,
    /// The roots that came with the certificate; `roots` has those of the file besides.
    pub signed_roots: Vec<CertificateDer<'static>>,
    /// Unix seconds.
    pub not_before: i64,
    pub not_after: i64,
}

/// Roots of trust.
#[derive(Debug, Default)]
pub struct Roots {
    pub anchors: Vec<TrustAnchor<'static>>,
}

impl Roots {
    /// Certificates that are no usable root are left out, with their number; the same root twice counts once.
    pub fn new<'a>(
        certificates: impl Iterator<Item = &'a CertificateDer<'static>>,
    ) -> (Self, usize) {
        let mut seen: Vec<&CertificateDer<'_>> = Vec::new();
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

/// Where the credentials in force are read, without a lock, by every handshake.
#[derive(Clone, Debug)]
pub struct Current {
    current: Arc<ArcSwapOption<Credentials>>,
    present: Arc<watch::Sender<bool>>,
}

impl Default for Current {
    fn default() -> Self {
        Self {
            current: Arc::default(),
            present: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl Current {
    /// `None` until the first certificate is there.
    pub fn load(&self) -> Guard<Option<Arc<Credentials>>> {
        self.current.load()
    }

    /// Handshakes from now on use these; connections that stand are left alone.
    pub fn set(&self, credentials: Credentials) {
        self.current.store(Some(Arc::new(credentials)));
        self.present.send_replace(true);
    }

    /// Resolves once there is a certificate.
    pub async fn present(&self) {
        // The sender lives in `self`: waiting cannot fail.
        let _ = self.present.subscribe().wait_for(|present| *present).await;
    }
}

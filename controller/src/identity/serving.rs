//! The controller's serving certificate: issued in memory, renewed at 70 % of its lifetime and when
//! the root changes.
//!
//! Open connections keep the certificate of their handshake.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::KeyPair;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use weft_ir::Identity;

use super::ca::SignError;
use super::metrics::{Expiring, Metrics};
use super::trust::{Trust, TrustReceiver};

/// The maximum interval between checks: a failed renewal is retried, and a change of the system's
/// clock noticed, within it.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The names of the server, and what issues its certificate.
#[derive(Clone)]
pub struct ServerIdentity {
    pub trust: TrustReceiver,
    pub identity: Identity,
    /// DNS names of the certificate, beside the identity.
    pub dns_names: Vec<String>,
    /// The lifetime of each serving certificate.
    pub lifetime: Duration,
    pub metrics: Metrics,
}

/// Resolves each handshake's certificate to the current one.
#[derive(Debug)]
pub struct Serving {
    current: ArcSwap<Current>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    root: Vec<u8>,
    renew_at: OffsetDateTime,
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

impl Serving {
    /// Issues the first certificate.
    pub fn new(server: &ServerIdentity, now: OffsetDateTime) -> Result<Self, SignError> {
        let trust = server.trust.borrow().clone();
        let held = issue(server, &trust, now)?;
        Ok(Self {
            current: ArcSwap::from_pointee(held),
        })
    }

    /// Replaces the certificate if its renewal is due, or if the root has changed. Returns true if
    /// it did.
    pub fn refresh(&self, server: &ServerIdentity, now: OffsetDateTime) -> Result<bool, SignError> {
        let trust = server.trust.borrow().clone();
        let held = self.current.load();
        if now < held.renew_at && held.root == trust.authority.root().as_ref() {
            return Ok(false);
        }
        self.current.store(Arc::new(issue(server, &trust, now)?));
        Ok(true)
    }

    /// Keeps the certificate renewed until `stop`.
    pub async fn keep_renewed(&self, server: &ServerIdentity, stop: CancellationToken) {
        let mut trust = server.trust.clone();
        loop {
            let left = self.current.load().renew_at - OffsetDateTime::now_utc();
            let wait = Duration::try_from(left)
                .unwrap_or(Duration::from_secs(1))
                .clamp(Duration::from_millis(100), CHECK_INTERVAL);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                changed = trust.changed() => if changed.is_err() { return },
            }
            match self.refresh(server, OffsetDateTime::now_utc()) {
                Ok(true) => {
                    tracing::info!(identity = %server.identity, "serving certificate renewed")
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(%error, "the serving certificate was not renewed: the current one stays in use");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }
}

fn issue(
    server: &ServerIdentity,
    trust: &Trust,
    now: OffsetDateTime,
) -> Result<Current, SignError> {
    let key = KeyPair::generate()?;
    let issued = trust.authority.sign_server(
        &key,
        &server.identity,
        &server.dns_names,
        server.lifetime,
        now,
    )?;
    let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::from(key))
        .map_err(SignError::Key)?;
    server.metrics.expires(Expiring::Serving, issued.not_after);
    server
        .metrics
        .expires(Expiring::Authority, trust.authority.not_after());
    Ok(Current {
        key: Arc::new(CertifiedKey::new(issued.chain, signer)),
        root: trust.authority.root().as_ref().to_vec(),
        renew_at: now + (issued.not_after - now) * 0.7,
    })
}

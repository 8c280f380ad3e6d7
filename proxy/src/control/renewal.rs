//! Obtains the certificate, renews it at 70 % of its life, and follows the file of roots.
//!
//! It is renewed earlier when its root no longer signs, when its root is gone (the mesh lost its
//! root and has another), and when the controller refuses it. The system clock is checked besides
//! the timer: it may have jumped. Whatever fails is retried, for ever, with growing pauses; the
//! certificate in force stays in force meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::Instant;
use weft_api::proto;
use weft_api::proto::certificate_authority_client::CertificateAuthorityClient;
use weft_ir::Identity;

use super::csr::{self, CertificateRequest, SignedError};
use crate::control::channel::{self, Address, Backoff, ConnectError};
use crate::telemetry::metrics::Metrics;
use crate::tls::Tls;
use crate::tls::credentials::{Credentials, CurrentCredentials, Outdated};
use crate::tls::trusted::Root;

/// The timeout of a `Sign` call.
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);
/// The interval at which the file of roots is read.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// The part of its life after which a certificate is renewed.
const RENEW_AT: f64 = 0.7;
/// A certificate whose root no longer signs is renewed within this, and within a tenth of its life.
const MAX_SPREAD: Duration = Duration::from_secs(30);

/// A useless certificate is replaced within this; the pause grows while that does not help.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// The longest such pause: a controller that refuses what it has signed itself is not to be
/// flooded.
const MAX_RETRY: Duration = Duration::from_secs(600);

/// What obtaining a certificate needs.
pub struct Renewal {
    pub identity: Identity,
    pub controller: Address,
    pub controller_identity: Identity,
    pub token: PathBuf,
    pub roots: PathBuf,
    pub tls: Tls,
    pub current: CurrentCredentials,
    pub metrics: Arc<Metrics>,
    /// Unix seconds.
    pub clock: fn() -> i64,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error(
        "reading the token {path}: {error}; check that the pod mounts the volume weft-identity"
    )]
    Token {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error(
        "reading the roots {path}: {error}; check that the ConfigMap weft-roots is in this namespace (weft-controller \
         puts it there) and that the pod mounts it"
    )]
    Roots { path: PathBuf, error: String },
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(
        "the controller refused to sign ({code:?}): {message}; check the pod's service account and its token"
    )]
    Refused { code: tonic::Code, message: String },
    #[error(transparent)]
    Signed(#[from] SignedError),
    #[error("making a key and its request: {0}")]
    Key(#[from] rcgen::Error),
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Renewal {
    /// Runs until dropped.
    pub async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut unusable_backoff = Backoff::new(FIRST_RETRY, MAX_RETRY);
        loop {
            match self.obtain().await {
                Ok((credentials, signed)) => {
                    backoff.reset();
                    let life = self.install(credentials, signed);
                    let begun = Instant::now();
                    self.wait(life, &mut unusable_backoff).await;
                    if begun.elapsed() > MAX_RETRY {
                        unusable_backoff.reset();
                    }
                }
                Err(error) => {
                    self.metrics.certificate_failures.inc();
                    let pause = backoff.pause();
                    tracing::warn!(retry_in = ?pause, "no certificate: {error}");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn obtain(&self) -> Result<(Credentials, Vec<Root>), RenewError> {
        self.current.set_file_roots(read_roots(&self.roots).await?);
        let token = read_token(&self.token).await?;
        let roots = self.current.roots();
        let tls = self
            .tls
            .authority_config(&self.controller_identity, roots)?;
        let (channel, _) = channel::connect(&self.controller, tls).await?;
        let request = CertificateRequest::new(&self.identity)?;
        let mut call = tonic::Request::new(proto::SignRequest {
            csr: request.csr.clone().into(),
            token,
        });
        call.set_timeout(SIGN_TIMEOUT);
        let mut client = CertificateAuthorityClient::new(channel);
        let response = client
            .sign(call)
            .await
            .map_err(|status| RenewError::Refused {
                code: status.code(),
                message: status.message().to_owned(),
            })?;
        let response = response.into_inner();
        Ok(csr::credentials(&request, &self.identity, &response)?)
    }

    /// Puts the credentials in force. Returns how long they last.
    fn install(&self, credentials: Credentials, signed: Vec<Root>) -> Duration {
        let left = u64::try_from(credentials.not_after - (self.clock)()).unwrap_or(0);
        let life = Duration::from_secs(left);
        tracing::info!(
            identity = %self.identity,
            valid_for = ?life,
            renew_in = ?life.mul_f64(RENEW_AT),
            "certificate obtained"
        );
        self.metrics.certificate_expiry.set(credentials.not_after);
        self.metrics.certificate_renewals.inc();
        self.current.install(credentials, signed);
        self.count_roots();
        life
    }

    fn count_roots(&self) {
        let current = self.current.load();
        let roots = current.as_ref().map_or(0, |c| c.roots.anchors.len());
        self.metrics.trusted_roots.set(roots as i64);
    }

    /// Waits until the certificate is to be renewed: at 70 % of its life, or soon when it is
    /// outdated. Reads the file's roots meanwhile.
    async fn wait(&self, life: Duration, unusable_backoff: &mut Backoff) {
        let mut changes = self.current.changes();
        let part = life.mul_f64(RENEW_AT);
        let due = Instant::now() + part;
        let due_by_clock = (self.clock)() + i64::try_from(part.as_secs()).unwrap_or(i64::MAX);
        let mut soon = None;
        let mut look = Instant::now() + POLL_INTERVAL;
        loop {
            soon = match (self.current.outdated(), soon) {
                (Some(why), None) => Some(Instant::now() + pause(why, life, unusable_backoff)),
                (Some(_), soon) => soon,
                (None, _) => None,
            };
            tokio::select! {
                () = tokio::time::sleep_until(soon.map_or(due, |soon| soon.min(due))) => return,
                // The sender lives in `current`: waiting cannot fail.
                _ = changes.changed() => self.count_roots(),
                () = tokio::time::sleep_until(look) => {
                    look = Instant::now() + POLL_INTERVAL;
                    if (self.clock)() > due_by_clock {
                        tracing::info!("the certificate is due by the clock, which has jumped");
                        return;
                    }
                    match read_roots(&self.roots).await {
                        Ok(roots) => drop(self.current.set_file_roots(roots)),
                        // The roots in force stay.
                        Err(error) => tracing::warn!("{error}"),
                    }
                }
            }
        }
    }
}

/// Returns how long until an outdated certificate is replaced.
fn pause(why: Outdated, life: Duration, unusable_backoff: &mut Backoff) -> Duration {
    let (pause, reason) = match why {
        Outdated::OtherSigner => (spread(life), "the controller signs under another root"),
        Outdated::RootGone => (
            unusable_backoff.pause(),
            "the root of this proxy's certificate is trusted no longer",
        ),
        Outdated::Refused => (
            unusable_backoff.pause(),
            "the controller refuses this proxy's certificate",
        ),
    };
    tracing::info!(renew_in = ?pause, "{reason}");
    pause
}

/// Spreads renewals over time: all proxies of the mesh learn of another signer at the same moment.
fn spread(life: Duration) -> Duration {
    let most = MAX_SPREAD.min(life / 10);
    most.mul_f64(0.1 + 0.9 * fastrand::f64())
}

async fn read_token(path: &Path) -> Result<String, RenewError> {
    let read = tokio::fs::read_to_string(path).await;
    let token = read.map_err(|error| RenewError::Token {
        path: path.to_owned(),
        error,
    })?;
    Ok(token.trim().to_owned())
}

/// Errors if the file has no certificate at all.
async fn read_roots(path: &Path) -> Result<Vec<CertificateDer<'static>>, RenewError> {
    let failed = |error: String| RenewError::Roots {
        path: path.to_owned(),
        error,
    };
    let pem = tokio::fs::read(path)
        .await
        .map_err(|e| failed(e.to_string()))?;
    let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let roots = roots.map_err(|e| failed(e.to_string()))?;
    if roots.is_empty() {
        return Err(failed("it has no certificate".to_owned()));
    }
    Ok(roots)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use weft_ir::TrustDomain;

    use super::*;

    static CLOCK: AtomicI64 = AtomicI64::new(0);

    fn renewal() -> Renewal {
        let domain = TrustDomain::new("cluster.local").unwrap();
        let identity = Identity::new(domain.clone(), "shop", "front").unwrap();
        let current = CurrentCredentials::default();
        Renewal {
            controller_identity: identity.clone(),
            identity,
            controller: Address::try_from(&http::Uri::from_static("https://[::1]:1")).unwrap(),
            token: PathBuf::new(),
            roots: PathBuf::new(),
            tls: Tls::new(current.clone(), domain).unwrap(),
            current,
            metrics: Arc::new(Metrics::new()),
            clock: || CLOCK.load(Ordering::Relaxed),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clock_jump_past_expiry_triggers_renewal() {
        let (renewal, begun) = (renewal(), Instant::now());
        let life = Duration::from_secs(86_400);
        let jump = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            CLOCK.store(86_400, Ordering::Relaxed);
        };
        let mut unusable_backoff = Backoff::new(FIRST_RETRY, MAX_RETRY);
        tokio::join!(renewal.wait(life, &mut unusable_backoff), jump);
        assert!(begun.elapsed() <= Duration::from_secs(60) + POLL_INTERVAL);
    }
}

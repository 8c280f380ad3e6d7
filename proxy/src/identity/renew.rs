//! Obtains the certificate, renews it at 70 % of its life and when its root signs no longer, and follows the file of roots.
//!
//! Whatever fails is tried again, for ever, with growing pauses; the certificate in force stays in force meanwhile.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::Instant;
use weft_api::proto;
use weft_api::proto::certificate_authority_client::CertificateAuthorityClient;
use weft_ir::Identity;

use super::credentials::{Credentials, Current};
use super::request::{self, Request, SignedError, unix_now};
use super::trusted::Root;
use crate::config::channel::{self, Address, Backoff, ConnectError};
use crate::telemetry::metrics::Metrics;
use crate::tls::Tls;

/// One `Sign` call may take this long.
const SIGN: Duration = Duration::from_secs(10);
/// How often the file of roots is looked at.
const LOOK: Duration = Duration::from_secs(10);

/// The part of its life after which a certificate is renewed.
const RENEW: f64 = 0.7;
/// A certificate whose root signs no longer is renewed within this, and within a tenth of its life.
const SOON: Duration = Duration::from_secs(30);

/// What obtaining a certificate needs.
pub struct Renewal {
    pub identity: Identity,
    pub controller: Address,
    pub controller_identity: Identity,
    pub token: PathBuf,
    pub roots: PathBuf,
    pub tls: Tls,
    pub current: Current,
    pub metrics: Arc<Metrics>,
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
        loop {
            match self.obtain().await {
                Ok((credentials, signed)) => {
                    backoff.reset();
                    let life = self.take_up(credentials, signed);
                    self.wait(life).await;
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
        self.current.file(read_roots(&self.roots).await?);
        let token = read_token(&self.token).await?;
        let roots = self.current.roots();
        let tls = self
            .tls
            .authority_config(&self.controller_identity, roots)?;
        let channel = channel::connect(&self.controller, tls).await?;
        let request = Request::new(&self.identity)?;
        let mut call = tonic::Request::new(proto::SignRequest {
            csr: request.csr.clone().into(),
            token,
        });
        call.set_timeout(SIGN);
        let mut client = CertificateAuthorityClient::new(channel);
        let response = client
            .sign(call)
            .await
            .map_err(|status| RenewError::Refused {
                code: status.code(),
                message: status.message().to_owned(),
            })?;
        let response = response.into_inner();
        Ok(request::credentials(&request, &self.identity, &response)?)
    }

    /// Puts the credentials in force; gives how long they last.
    fn take_up(&self, credentials: Credentials, signed: Vec<Root>) -> Duration {
        let left = u64::try_from(credentials.not_after - unix_now()).unwrap_or(0);
        let life = Duration::from_secs(left);
        tracing::info!(
            identity = %self.identity,
            valid_for = ?life,
            renew_in = ?life.mul_f64(RENEW),
            "certificate obtained"
        );
        self.metrics.certificate_expiry.set(credentials.not_after);
        self.metrics.certificate_renewals.inc();
        self.current.obtained(credentials, signed);
        self.count_roots();
        life
    }

    fn count_roots(&self) {
        let current = self.current.load();
        let roots = current.as_ref().map_or(0, |c| c.roots.anchors.len());
        self.metrics.trusted_roots.set(roots as i64);
    }

    /// Until the certificate is to be renewed: at 70 % of its life, or soon when the controller signs under another root.
    /// Takes up the file's roots meanwhile.
    async fn wait(&self, life: Duration) {
        let mut changes = self.current.changes();
        let due = Instant::now() + life.mul_f64(RENEW);
        let mut soon = None;
        let mut look = Instant::now() + LOOK;
        loop {
            soon = match (self.current.is_outdated(), soon) {
                (true, None) => {
                    let pause = spread(life);
                    tracing::info!(renew_in = ?pause, "the controller signs under another root");
                    Some(Instant::now() + pause)
                }
                (true, soon) => soon,
                (false, _) => None,
            };
            tokio::select! {
                () = tokio::time::sleep_until(soon.map_or(due, |soon| soon.min(due))) => return,
                // The sender lives in `current`: waiting cannot fail.
                _ = changes.changed() => self.count_roots(),
                () = tokio::time::sleep_until(look) => {
                    look = Instant::now() + LOOK;
                    match read_roots(&self.roots).await {
                        Ok(roots) => drop(self.current.file(roots)),
                        // Those in force stay so.
                        Err(error) => tracing::warn!("{error}"),
                    }
                }
            }
        }
    }
}

/// When to renew a certificate whose root signs no longer: all proxies of the mesh are told at the same moment.
fn spread(life: Duration) -> Duration {
    let most = SOON.min(life / 10);
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

/// Errors when the file has no certificate at all.
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

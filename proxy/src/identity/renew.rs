//! Obtains the certificate, renews it at 70 % of its life, and takes up roots when their file changes.
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

use super::credentials::{Credentials, Current, Roots};
use super::request::{self, Request, SignedError, unix_now};
use crate::config::channel::{self, Address, Backoff, ConnectError};
use crate::telemetry::metrics::Metrics;
use crate::tls::Tls;

/// One `Sign` call may take this long.
const SIGN: Duration = Duration::from_secs(10);
/// How often the file of roots is looked at.
const LOOK: Duration = Duration::from_secs(10);

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
                Ok(credentials) => {
                    backoff.reset();
                    let renew_at = self.take_up(credentials);
                    self.watch_roots_until(renew_at).await;
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

    async fn obtain(&self) -> Result<Credentials, RenewError> {
        let file_roots = read_roots(&self.roots).await?;
        let token = read_token(&self.token).await?;
        let (roots, _) = Roots::new(file_roots.iter());
        let tls = self
            .tls
            .authority_config(&self.controller_identity, Arc::new(roots))?;
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
        Ok(request::credentials(
            &request,
            &self.identity,
            &response,
            &file_roots,
        )?)
    }

    /// Puts the credentials in force; gives when to renew them.
    fn take_up(&self, credentials: Credentials) -> Instant {
        let left = u64::try_from(credentials.not_after - unix_now()).unwrap_or(0);
        let renew_in = Duration::from_secs(left).mul_f64(0.7);
        tracing::info!(
            identity = %self.identity,
            valid_for = ?Duration::from_secs(left),
            ?renew_in,
            "certificate obtained"
        );
        self.metrics.certificate_expiry.set(credentials.not_after);
        self.metrics.certificate_renewals.inc();
        self.put_in_force(credentials);
        Instant::now() + renew_in
    }

    fn put_in_force(&self, credentials: Credentials) {
        let roots = credentials.roots.anchors.len();
        self.metrics.trusted_roots.set(roots as i64);
        self.current.set(credentials);
    }

    async fn watch_roots_until(&self, deadline: Instant) {
        let mut taken = read_roots(&self.roots).await.unwrap_or_default();
        loop {
            let next = (Instant::now() + LOOK).min(deadline);
            tokio::time::sleep_until(next).await;
            if next == deadline {
                return;
            }
            match read_roots(&self.roots).await {
                Ok(roots) if roots != taken => {
                    self.take_up_roots(&roots);
                    taken = roots;
                }
                Ok(_) => {}
                // Those in force stay so.
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }

    /// The certificate stays; peers are checked against the file's roots and those that came with the certificate.
    fn take_up_roots(&self, file_roots: &[CertificateDer<'static>]) {
        let Some(credentials) = self.current.load().clone() else {
            return;
        };
        let (roots, unusable) = Roots::new(file_roots.iter().chain(&credentials.signed_roots));
        tracing::info!(
            roots = roots.anchors.len(),
            unusable,
            "the roots have changed"
        );
        self.put_in_force(Credentials {
            roots: Arc::new(roots),
            key: credentials.key.clone(),
            signed_roots: credentials.signed_roots.clone(),
            ..*credentials
        });
    }
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

//! The CertificateAuthority service: signs a CSR for the service account of the token that comes
//! with it.
//!
//! The checks are in order of cost: sizes, the CSR, the token's claims, then the review by
//! Kubernetes, whose rate is limited for each source address and which is not repeated at once for
//! a rejected token. Every failure is counted; logs are throttled.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};
use weft_accept::Throttle;
use weft_api::proto::certificate_authority_server::CertificateAuthority;
use weft_api::proto::{SignRequest, SignResponse};
use weft_ir::{Identity, TrustDomain};

use super::ca::SignError;
use super::csr::{self, CsrError};
use super::metrics::Metrics;
use super::pod::{Claim, PodCheck, PodMismatch};
use super::review::{Caller, ReviewError, Reviewer, TokenRejection, review_outcome};
use super::reviews::ReviewLimiter;
use super::token::{self, PrecheckError};
use super::trust::TrustReceiver;

/// The maximum size of a token in bytes; those of Kubernetes have about 1,200.
const MAX_TOKEN: usize = 16 * 1024;
/// The maximum lifetime of a certificate: none is revoked before it expires.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Token reviews at a time; further requests wait.
const CONCURRENCY: usize = 64;
/// How long a request waits for a permit, and then for the review.
const WAIT: Duration = Duration::from_secs(5);
/// Log lines about failures: a burst, and one more each second.
const LOG_BURST: u32 = 10;
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignFailure {
    #[error("the request has no token")]
    NoToken,
    #[error("the token has {0} bytes; the limit is {MAX_TOKEN}")]
    LongToken(usize),
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Precheck(#[from] PrecheckError),
    #[error("Kubernetes rejected this token a moment ago")]
    RejectedBefore,
    #[error(transparent)]
    Token(#[from] TokenRejection),
    #[error("the CSR requests {asked}, but the token belongs to {own}")]
    ForeignName { asked: Identity, own: Identity },
    #[error(transparent)]
    Pod(#[from] PodMismatch),
    #[error("too many requests: try again")]
    Busy,
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error("reviewing the token: the Kubernetes API did not answer within {} s", WAIT.as_secs())]
    ReviewTimeout,
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl SignFailure {
    /// The status code that `mesh.proto` documents.
    pub fn code(&self) -> Code {
        match self {
            Self::Precheck(PrecheckError::ForeignName) => Code::PermissionDenied,
            Self::NoToken
            | Self::LongToken(_)
            | Self::Precheck(_)
            | Self::RejectedBefore
            | Self::Token(_) => Code::Unauthenticated,
            Self::Csr(error) if error.is_about_names() => Code::PermissionDenied,
            Self::Csr(_) => Code::InvalidArgument,
            Self::ForeignName { .. } => Code::PermissionDenied,
            Self::Pod(mismatch) => mismatch.code(),
            Self::Busy => Code::ResourceExhausted,
            Self::Review(_) | Self::ReviewTimeout => Code::Unavailable,
            Self::Sign(_) => Code::Internal,
        }
    }

    /// The label `reason` of the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::LongToken(_) => "long_token",
            Self::Csr(error) if error.is_about_names() => "csr_name",
            Self::Csr(_) => "csr",
            Self::Precheck(error) => error.reason(),
            Self::RejectedBefore => "refused_before",
            Self::Token(refusal) => refusal.reason(),
            Self::ForeignName { .. } => "foreign_name",
            Self::Pod(mismatch) => mismatch.reason(),
            Self::Busy => "busy",
            Self::Review(_) | Self::ReviewTimeout => "review_failed",
            Self::Sign(_) => "signing",
        }
    }
}

/// Signs certificates for pods that authenticate by their token.
pub struct Signer<R> {
    reviewer: R,
    trust: TrustReceiver,
    trust_domain: TrustDomain,
    lifetime: Duration,
    pods: PodCheck,
    permits: Semaphore,
    reviews: Mutex<ReviewLimiter>,
    log_throttle: Throttle,
    metrics: Metrics,
}

impl<R: Reviewer> Signer<R> {
    /// `lifetime` of certificates is a day at most, and ends with the authority's own.
    pub fn new(
        reviewer: R,
        trust: TrustReceiver,
        trust_domain: TrustDomain,
        lifetime: Duration,
        pods: PodCheck,
        metrics: Metrics,
    ) -> Self {
        Self {
            reviewer,
            trust,
            trust_domain,
            lifetime: lifetime.min(MAX_LIFETIME),
            pods,
            permits: Semaphore::new(CONCURRENCY),
            reviews: Mutex::default(),
            log_throttle: Throttle::new(LOG_BURST, LOG_INTERVAL),
            metrics,
        }
    }

    async fn answer(
        &self,
        request: &SignRequest,
        from: IpAddr,
    ) -> Result<(Caller, SignResponse), SignFailure> {
        match request.token.len() {
            0 => return Err(SignFailure::NoToken),
            length if length > MAX_TOKEN => return Err(SignFailure::LongToken(length)),
            _ => {}
        }
        let asked = csr::parse(&request.csr)?;
        token::precheck(&request.token, &asked.identity, OffsetDateTime::now_utc())?;
        let caller = self.caller(&request.token, from).await?;
        if asked.identity != caller.identity {
            return Err(SignFailure::ForeignName {
                asked: asked.identity,
                own: caller.identity,
            });
        }
        let claim = Claim {
            namespace: caller.identity.namespace(),
            pod: &caller.pod,
            uid: caller.uid.as_deref(),
            node: caller.node.as_deref(),
            account: None,
            address: from,
        };
        self.pods.confirm(&claim).await?;
        let now = OffsetDateTime::now_utc();
        let trust = self.trust.borrow().clone();
        let issued = trust
            .authority
            .sign(&asked.key, &caller.identity, self.lifetime, now)?;
        let response = SignResponse {
            chain: issued.chain.iter().map(|der| der.to_vec().into()).collect(),
            roots: trust
                .roots
                .valid_at(now)
                .map(|der| der.to_vec().into())
                .collect(),
        };
        Ok((caller, response))
    }

    async fn caller(&self, token: &str, from: IpAddr) -> Result<Caller, SignFailure> {
        if self.reviews().was_rejected(token, Instant::now()) {
            return Err(SignFailure::RejectedBefore);
        }
        if !self.reviews().admit(from, Instant::now()) {
            return Err(SignFailure::Busy);
        }
        let _permit = tokio::time::timeout(WAIT, self.permits.acquire())
            .await
            .map_err(|_| SignFailure::Busy)?
            .map_err(|_| SignFailure::Busy)?;
        let status = tokio::time::timeout(WAIT, self.reviewer.review(token))
            .await
            .map_err(|_| SignFailure::ReviewTimeout)??;
        let outcome = review_outcome(&status, &self.trust_domain);
        if outcome.is_err() {
            self.reviews().record_rejection(token, Instant::now());
        }
        Ok(outcome?)
    }

    fn reviews(&self) -> MutexGuard<'_, ReviewLimiter> {
        self.reviews.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl<R: Reviewer> CertificateAuthority for Signer<R> {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let Some(from) = request.remote_addr() else {
            return Err(Status::internal("the caller's address is unknown"));
        };
        match self.answer(request.get_ref(), from.ip()).await {
            Ok((caller, response)) => {
                self.metrics.signed();
                tracing::info!(identity = %caller.identity, pod = %caller.pod, %from, "certificate signed");
                Ok(Response::new(response))
            }
            Err(failure) => {
                self.metrics.refused(failure.reason());
                if let Some(unlogged) = self.log_throttle.pass() {
                    let reason = failure.reason();
                    tracing::warn!(%failure, reason, %from, unlogged, "signing request rejected");
                }
                Err(Status::new(failure.code(), failure.to_string()))
            }
        }
    }
}

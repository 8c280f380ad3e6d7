//! The CertificateAuthority service: a token, reviewed, and a CSR for its own account become a certificate.
//!
//! Checks in order of cost: sizes, the CSR, what the token says of itself, then Kubernetes is asked about it, not too often for
//! one address and not at once again about a token that it refused. Every refusal is counted, and logged unless there are many.

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
use super::pod::{Claim, Doubt, PodCheck};
use super::review::{Caller, Refusal, ReviewError, Reviewer, review_outcome};
use super::reviews::Reviews;
use super::token::{self, Implausible};
use super::trust::TrustReceiver;

/// The longest token that is looked at, in bytes; those of Kubernetes take about 1,200.
const MAX_TOKEN: usize = 16 * 1024;
/// No certificate is revoked before it ends.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Requests that are worked on at once; further ones wait.
const CONCURRENCY: usize = 64;
/// How long a request waits for its turn, and then for Kubernetes.
const WAIT: Duration = Duration::from_secs(5);
/// Lines of log about refusals: so many at once, and one more each second.
const LINES: u32 = 10;
const LINE: Duration = Duration::from_secs(1);

/// Why a request got no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SignFailure {
    #[error("no token")]
    NoToken,
    #[error("the token has {0} bytes, more than {MAX_TOKEN}")]
    LongToken(usize),
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error(transparent)]
    Implausible(#[from] Implausible),
    #[error("Kubernetes has refused this token a moment ago")]
    RefusedBefore,
    #[error(transparent)]
    Token(#[from] Refusal),
    #[error("the CSR asks for {asked}, the token is of {own}")]
    ForeignName { asked: Identity, own: Identity },
    #[error(transparent)]
    Pod(#[from] Doubt),
    #[error("too many requests; try again")]
    Busy,
    #[error(transparent)]
    Review(#[from] ReviewError),
    #[error("token review: no answer within {} s", WAIT.as_secs())]
    ReviewTimeout,
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl SignFailure {
    /// The code that `mesh.proto` gives it.
    pub fn code(&self) -> Code {
        match self {
            Self::Implausible(Implausible::ForeignName) => Code::PermissionDenied,
            Self::NoToken
            | Self::LongToken(_)
            | Self::Implausible(_)
            | Self::RefusedBefore
            | Self::Token(_) => Code::Unauthenticated,
            Self::Csr(error) if error.is_about_names() => Code::PermissionDenied,
            Self::Csr(_) => Code::InvalidArgument,
            Self::ForeignName { .. } => Code::PermissionDenied,
            Self::Pod(doubt) => doubt.code(),
            Self::Busy => Code::ResourceExhausted,
            Self::Review(_) | Self::ReviewTimeout => Code::Unavailable,
            Self::Sign(_) => Code::Internal,
        }
    }

    /// A word for the metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::LongToken(_) => "long_token",
            Self::Csr(error) if error.is_about_names() => "csr_name",
            Self::Csr(_) => "csr",
            Self::Implausible(implausible) => implausible.word(),
            Self::RefusedBefore => "refused_before",
            Self::Token(refusal) => refusal.word(),
            Self::ForeignName { .. } => "foreign_name",
            Self::Pod(doubt) => doubt.word(),
            Self::Busy => "busy",
            Self::Review(_) | Self::ReviewTimeout => "review_failed",
            Self::Sign(_) => "signing",
        }
    }
}

/// Signs for pods that show their token.
pub struct Signer<R> {
    reviewer: R,
    trust: TrustReceiver,
    trust_domain: TrustDomain,
    lifetime: Duration,
    pods: PodCheck,
    turns: Semaphore,
    reviews: Mutex<Reviews>,
    lines: Throttle,
    metrics: Metrics,
}

impl<R: Reviewer> Signer<R> {
    /// `lifetime` is how long each certificate lasts, a day at most, unless the authority ends before.
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
            lifetime: lifetime.min(LONGEST_LIFE),
            pods,
            turns: Semaphore::new(CONCURRENCY),
            reviews: Mutex::default(),
            lines: Throttle::new(LINES, LINE),
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
        token::plausible(&request.token, &asked.identity, OffsetDateTime::now_utc())?;
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
        if self.reviews().was_refused(token, Instant::now()) {
            return Err(SignFailure::RefusedBefore);
        }
        if !self.reviews().allow(from, Instant::now()) {
            return Err(SignFailure::Busy);
        }
        let _turn = tokio::time::timeout(WAIT, self.turns.acquire())
            .await
            .map_err(|_| SignFailure::Busy)?
            .map_err(|_| SignFailure::Busy)?;
        let status = tokio::time::timeout(WAIT, self.reviewer.review(token))
            .await
            .map_err(|_| SignFailure::ReviewTimeout)??;
        let outcome = review_outcome(&status, &self.trust_domain);
        if outcome.is_err() {
            self.reviews().refuse(token, Instant::now());
        }
        Ok(outcome?)
    }

    fn reviews(&self) -> MutexGuard<'_, Reviews> {
        self.reviews.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl<R: Reviewer> CertificateAuthority for Signer<R> {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let Some(from) = request.remote_addr() else {
            return Err(Status::internal("the caller's address is not known"));
        };
        match self.answer(request.get_ref(), from.ip()).await {
            Ok((caller, response)) => {
                self.metrics.signed();
                tracing::info!(identity = %caller.identity, pod = %caller.pod, %from, "certificate signed");
                Ok(Response::new(response))
            }
            Err(failure) => {
                self.metrics.refused(failure.word());
                if let Some(unlogged) = self.lines.pass() {
                    let reason = failure.word();
                    tracing::warn!(%failure, reason, %from, unlogged, "no certificate signed");
                }
                Err(Status::new(failure.code(), failure.to_string()))
            }
        }
    }
}

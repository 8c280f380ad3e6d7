//! Identifies the owner of a token by Kubernetes' TokenReview.
//!
//! The decision is a pure function. The call is behind a trait so that tests can replace it.

use std::future::Future;

use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::{Api, Client};
use weft_api::TOKEN_AUDIENCE;
use weft_ir::{Identity, TrustDomain};

use crate::kubernetes;

/// The key of the name of the pod that a token is bound to, in `UserInfo.extra`.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Since Kubernetes 1.30.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Why a reviewed token is rejected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenRejection {
    #[error("Kubernetes rejected the token: {0}")]
    NotAuthenticated(String),
    #[error(
        "the token is for the audiences {0:?}, not for {TOKEN_AUDIENCE}; check the projected \
         volume of the pod"
    )]
    Audience(Vec<String>),
    #[error("the token belongs to {0:?}, which is not a service account")]
    NotServiceAccount(String),
    #[error("the token of {0} is not bound to a pod; only projected tokens of pods are accepted")]
    NotBound(String),
}

impl TokenRejection {
    /// The label `reason` of the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotAuthenticated(_) => "not_authenticated",
            Self::Audience(_) => "audience",
            Self::NotServiceAccount(_) => "not_service_account",
            Self::NotBound(_) => "not_bound",
        }
    }
}

/// The pod that a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub identity: Identity,
    pub pod: String,
    pub uid: Option<String>,
    pub node: Option<String>,
}

/// Returns the pod that the reviewed token belongs to.
pub fn review_outcome(
    status: &TokenReviewStatus,
    trust_domain: &TrustDomain,
) -> Result<Caller, TokenRejection> {
    if status.authenticated != Some(true) {
        let reason = status.error.as_deref().unwrap_or("no reason given");
        return Err(TokenRejection::NotAuthenticated(
            reason.chars().take(300).collect(),
        ));
    }
    // A server without support for audiences returns none: the token may then be for any audience.
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(TokenRejection::Audience(audiences.to_vec()));
    }
    let user = status.user.as_ref();
    let name = user.and_then(|u| u.username.as_deref()).unwrap_or_default();
    let identity = service_account(name, trust_domain)
        .ok_or_else(|| TokenRejection::NotServiceAccount(name.to_owned()))?;
    let pod = user
        .and_then(|user| extra(user, POD_NAME))
        .ok_or_else(|| TokenRejection::NotBound(identity.to_string()))?;
    Ok(Caller {
        identity,
        pod: pod.to_owned(),
        uid: user
            .and_then(|user| extra(user, POD_UID))
            .map(str::to_owned),
        node: user
            .and_then(|user| extra(user, NODE_NAME))
            .map(str::to_owned),
    })
}

fn service_account(username: &str, trust_domain: &TrustDomain) -> Option<Identity> {
    let rest = username.strip_prefix("system:serviceaccount:")?;
    let (namespace, account) = rest.split_once(':')?;
    Identity::new(trust_domain.clone(), namespace, account).ok()
}

fn extra<'a>(user: &'a UserInfo, key: &str) -> Option<&'a str> {
    match user.extra.as_ref()?.get(key)?.as_slice() {
        [value] if !value.is_empty() => Some(value),
        _ => None,
    }
}

/// Reviews tokens.
pub trait Reviewer: Send + Sync + 'static {
    /// Returns an error if the review failed; the review of an invalid token succeeds.
    fn review(
        &self,
        token: &str,
    ) -> impl Future<Output = Result<TokenReviewStatus, ReviewError>> + Send;
}

/// A token could not be reviewed.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    #[error(
        "reviewing the token: {0}; check that the Kubernetes API is reachable and that the \
         controller may create tokenreviews"
    )]
    Kubernetes(#[from] Box<kube::Error>),
    #[error("reviewing the token: the TokenReview has no status")]
    NoStatus,
}

/// Reviews tokens by the Kubernetes API.
#[derive(Clone)]
pub struct KubeReviewer(pub Client);

impl Reviewer for KubeReviewer {
    async fn review(&self, token: &str) -> Result<TokenReviewStatus, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let answer = Api::<TokenReview>::all(self.0.clone())
            .create(&kubernetes::post(), &review)
            .await
            .map_err(Box::new)?;
        answer.status.ok_or(ReviewError::NoStatus)
    }
}

//! Whose token this is: the answer of Kubernetes' TokenReview, and what follows from it.
//!
//! The decision is a pure function. The call is behind a trait so that another source of answers can be put there.

use std::future::Future;

use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::{Api, Client};
use weft_api::TOKEN_AUDIENCE;
use weft_ir::{Identity, TrustDomain};

use crate::kubernetes;

/// Where Kubernetes puts the name of the pod that a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// From Kubernetes 1.30 on.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The token gives no identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    #[error("Kubernetes does not accept the token: {0}")]
    NotAuthenticated(String),
    #[error(
        "the token is not made for the audience {TOKEN_AUDIENCE} but for {0:?}; check the projected volume of the pod"
    )]
    Audience(Vec<String>),
    #[error("the token is of {0:?}, which is no service account")]
    NotServiceAccount(String),
    #[error("the token of {0} is not bound to a pod; only projected tokens of pods are accepted")]
    NotBound(String),
}

impl Refusal {
    /// A word for the metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NotAuthenticated(_) => "not_authenticated",
            Self::Audience(_) => "audience",
            Self::NotServiceAccount(_) => "not_service_account",
            Self::NotBound(_) => "not_bound",
        }
    }
}

/// A pod that has shown who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub identity: Identity,
    pub pod: String,
    pub uid: Option<String>,
    pub node: Option<String>,
}

/// Decides whose token was reviewed.
pub fn review_outcome(
    status: &TokenReviewStatus,
    trust_domain: &TrustDomain,
) -> Result<Caller, Refusal> {
    if status.authenticated != Some(true) {
        let said = status.error.as_deref().unwrap_or("no reason given");
        return Err(Refusal::NotAuthenticated(said.chars().take(300).collect()));
    }
    // A server that knows nothing of audiences answers with none: the token may then be meant for anybody.
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(Refusal::Audience(audiences.to_vec()));
    }
    let user = status.user.as_ref();
    let name = user.and_then(|u| u.username.as_deref()).unwrap_or_default();
    let identity = service_account(name, trust_domain)
        .ok_or_else(|| Refusal::NotServiceAccount(name.to_owned()))?;
    let pod = user
        .and_then(|user| extra(user, POD_NAME))
        .ok_or_else(|| Refusal::NotBound(identity.to_string()))?;
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

/// Asks about a token.
pub trait Reviewer: Send + Sync + 'static {
    /// Errors when there is no answer; a bad token is an answer.
    fn review(
        &self,
        token: &str,
    ) -> impl Future<Output = Result<TokenReviewStatus, ReviewError>> + Send;
}

/// Kubernetes could not be asked.
#[derive(Debug, thiserror::Error)]
#[error(
    "token review: {0}; check that the Kubernetes API is reachable and that the controller may create tokenreviews"
)]
pub struct ReviewError(pub String);

/// Asks the Kubernetes API.
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
            .map_err(|e| ReviewError(e.to_string()))?;
        answer
            .status
            .ok_or_else(|| ReviewError("the answer has no status".to_owned()))
    }
}

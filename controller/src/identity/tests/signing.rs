//! Who gets a certificate: the decision on a reviewed token, and the service around it.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use tokio::sync::watch;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Request};
use weft_api::proto::SignRequest;
use weft_api::proto::certificate_authority_server::CertificateAuthority;

use super::*;
use crate::identity::pod::tests::{check, pod, snapshot};
use crate::identity::token::tests as unsigned;
use crate::identity::{
    Metrics, ReviewError, Reviewer, Signer, TokenRejection, end_of_validity, identity_of,
    review_outcome,
};

const BOUND: &str = "authentication.kubernetes.io/pod-name";

pub(crate) fn reviewed(username: &str) -> TokenReviewStatus {
    TokenReviewStatus {
        authenticated: Some(true),
        audiences: Some(vec!["weft.dev/ca".to_owned()]),
        user: Some(UserInfo {
            username: Some(username.to_owned()),
            extra: Some(
                [
                    (BOUND.to_owned(), vec!["bob-0".to_owned()]),
                    (
                        "authentication.kubernetes.io/pod-uid".to_owned(),
                        vec!["1".to_owned()],
                    ),
                ]
                .into(),
            ),
            ..UserInfo::default()
        }),
        ..TokenReviewStatus::default()
    }
}

const BOB: &str = "system:serviceaccount:shop:bob";

#[test]
fn reviewed_token_identifies_its_pod() {
    let caller = review_outcome(&reviewed(BOB), &domain()).unwrap();
    assert_eq!(caller.identity, identity("shop", "bob"));
    assert_eq!(caller.pod, "bob-0");
    assert_eq!((caller.uid.as_deref(), caller.node), (Some("1"), None));
}

#[test]
fn other_reviews_are_rejected() {
    let decide = |status: &TokenReviewStatus| review_outcome(status, &domain()).unwrap_err();

    let mut status = reviewed(BOB);
    status.authenticated = Some(false);
    status.error = Some("token has expired".to_owned());
    assert_eq!(
        decide(&status),
        TokenRejection::NotAuthenticated("token has expired".to_owned())
    );
    status.authenticated = None;
    assert!(matches!(
        decide(&status),
        TokenRejection::NotAuthenticated(_)
    ));

    for audiences in [None, Some(vec![]), Some(vec!["https://api".to_owned()])] {
        let mut status = reviewed(BOB);
        status.audiences = audiences;
        assert!(matches!(decide(&status), TokenRejection::Audience(_)));
    }
    for name in [
        "",
        "alice",
        "system:node:a",
        "system:serviceaccount:shop",
        "system:serviceaccount::bob",
        "system:serviceaccount:shop:bob:x",
        "system:serviceaccount:shop/sa/alice:bob",
    ] {
        let error = decide(&reviewed(name));
        assert!(
            matches!(error, TokenRejection::NotServiceAccount(_)),
            "{name}"
        );
    }
    for extra in [
        None,
        Some([].into()),
        Some([(BOUND.to_owned(), vec![])].into()),
        Some([(BOUND.to_owned(), vec![String::new()])].into()),
        Some([(BOUND.to_owned(), vec!["a".to_owned(), "b".to_owned()])].into()),
    ] {
        let mut status = reviewed(BOB);
        status.user.as_mut().unwrap().extra = extra;
        assert!(matches!(decide(&status), TokenRejection::NotBound(_)));
    }
}

/// A token of `bob-0` as Kubernetes makes them.
fn token(signature: &str) -> String {
    unsigned::token(&unsigned::payload(), signature)
}

fn signature(token: &str) -> &str {
    token.rsplit('.').next().unwrap_or_default()
}

/// Knows one good signature; for anything else it answers as Kubernetes does for a wrong audience,
/// or not at all.
pub(crate) struct Known;

impl Reviewer for Known {
    async fn review(&self, token: &str) -> Result<TokenReviewStatus, ReviewError> {
        match signature(token) {
            "bob" => Ok(reviewed(BOB)),
            "unreachable" => {
                let refused = kube::Error::Service("connection refused".into());
                Err(Box::new(refused).into())
            }
            "hangs" => std::future::pending().await,
            _ => Ok(TokenReviewStatus {
                authenticated: Some(false),
                error: Some("token audiences [x] is invalid".to_owned()),
                ..TokenReviewStatus::default()
            }),
        }
    }
}

fn signer() -> (Signer<Known>, Metrics, Arc<Trust>) {
    let trust = Arc::new(trust());
    let (_, receiver) = watch::channel(trust.clone());
    let metrics = Metrics::default();
    let (snapshots, _) = watch::channel(snapshot(vec![pod("1", &["10.1.0.1"])]));
    let week = 7 * DAY;
    let pods = check(&snapshots);
    let signer = Signer::new(Known, receiver, domain(), week, pods, metrics.clone());
    (signer, metrics, trust)
}

/// From the address of the pod of the good token, or from another.
fn from(address: &str, message: SignRequest) -> Request<SignRequest> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(TcpConnectInfo {
        local_addr: None,
        remote_addr: Some(std::net::SocketAddr::new(address.parse().unwrap(), 4000)),
    });
    request
}

fn csr_for(name: &str) -> Vec<u8> {
    csr(&request(vec![uri(name)]), &KeyPair::generate().unwrap())
}

#[tokio::test]
async fn valid_request_is_signed() {
    let (signer, _, trust) = signer();
    let message = SignRequest {
        csr: csr_for("spiffe://cluster.local/ns/shop/sa/bob").into(),
        token: token("bob"),
    };
    let response = signer.sign(from("10.1.0.1", message)).await.unwrap();
    let response = response.into_inner();
    let leaf = response.chain[0].to_vec().into();
    assert_eq!(
        identity_of(&leaf, &domain()).unwrap(),
        identity("shop", "bob")
    );
    let left = end_of_validity(&leaf).unwrap() - now();
    assert!(left <= time::Duration::DAY, "a week was asked for: {left}");
    assert_eq!(response.roots.len(), 1);
    assert_eq!(response.roots[0], trust.authority.root().as_ref());
}

#[tokio::test(start_paused = true)]
async fn rejected_request_has_its_code_and_is_counted() {
    let own = csr_for("spiffe://cluster.local/ns/shop/sa/bob");
    let alice = csr_for("spiffe://cluster.local/ns/shop/sa/alice");
    let elsewhere = csr_for("spiffe://other.domain/ns/shop/sa/bob");
    let two = csr(
        &request(vec![
            uri("spiffe://a/ns/b/sa/c"),
            uri("spiffe://a/ns/b/sa/d"),
        ]),
        &KeyPair::generate().unwrap(),
    );
    let long = "x".repeat(20_000);
    let [bob, unreachable, hangs] = ["bob", "unreachable", "hangs"].map(token);
    let cases = [
        (&own, "", Code::Unauthenticated, "no_token"),
        (
            &own,
            &token("other"),
            Code::Unauthenticated,
            "not_authenticated",
        ),
        (&own, &long, Code::Unauthenticated, "long_token"),
        (&own, "junk", Code::Unauthenticated, "malformed_token"),
        (&alice, &bob, Code::PermissionDenied, "foreign_name"),
        (&elsewhere, &bob, Code::PermissionDenied, "foreign_name"),
        (&two, &bob, Code::PermissionDenied, "csr_name"),
        (&b"garbage".to_vec(), &bob, Code::InvalidArgument, "csr"),
        (&vec![0u8; 100_000], &bob, Code::InvalidArgument, "csr"),
        (&own, &unreachable, Code::Unavailable, "review_failed"),
        (&own, &hangs, Code::Unavailable, "review_failed"),
    ];
    for (csr, token, code, word) in cases {
        let (signer, metrics, _) = signer();
        let message = SignRequest {
            csr: csr.clone().into(),
            token: token.to_owned(),
        };
        let status = signer.sign(from("10.1.0.1", message)).await.unwrap_err();
        assert_eq!(status.code(), code, "{word}: {status}");
        assert_eq!(metrics.refusals(word), 1, "{word}");
    }
}

/// Counts what Kubernetes would be asked.
#[derive(Clone, Default)]
struct Counted(Arc<std::sync::atomic::AtomicUsize>);

impl Reviewer for Counted {
    async fn review(&self, token: &str) -> Result<TokenReviewStatus, ReviewError> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Known.review(token).await
    }
}

#[tokio::test]
async fn token_reviews_are_limited() {
    let (_, receiver) = watch::channel(Arc::new(trust()));
    let (counted, metrics) = (Counted::default(), Metrics::default());
    let (snapshots, _) = watch::channel(snapshot(vec![pod("1", &["10.0.0.1"])]));
    let pods = check(&snapshots);
    let signer = Signer::new(
        counted.clone(),
        receiver,
        domain(),
        DAY,
        pods,
        metrics.clone(),
    );
    let csr = csr_for("spiffe://cluster.local/ns/shop/sa/bob");
    let ask = async |from: &str, token: String| {
        let csr = csr.clone().into();
        signer
            .sign(self::from(from, SignRequest { csr, token }))
            .await
    };
    let asked = || counted.0.load(std::sync::atomic::Ordering::Relaxed);
    // What cannot be right, and what was wrong a moment ago.
    for _ in 0..50 {
        ask("10.0.0.9", "a.b.c".to_owned()).await.unwrap_err();
        ask("10.0.0.9", token("stolen")).await.unwrap_err();
    }
    assert_eq!(asked(), 1);
    assert_eq!(metrics.refusals("refused_before"), 49);
    // Ever new ones, from one address; others are served.
    for turn in 0..100 {
        ask("10.0.0.9", token(&format!("{turn}")))
            .await
            .unwrap_err();
    }
    assert!(asked() < 60, "{}", asked());
    assert!(metrics.refusals("busy") > 40);
    ask("10.0.0.1", token("bob")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn token_is_accepted_from_the_address_of_its_pod_only() {
    let message = SignRequest {
        csr: csr_for("spiffe://cluster.local/ns/shop/sa/bob").into(),
        token: token("bob"),
    };
    let (signer, metrics, _) = signer();
    let status = signer.sign(from("10.1.0.2", message)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(metrics.refusals("other_address"), 1);
}

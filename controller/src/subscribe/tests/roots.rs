//! The roots that proxies are sent, and their progress.

use weft_api::encode;
use weft_ir::TrustedRoots;

use super::*;
use crate::identity::RootFingerprint;

const OLD: &[u8] = b"old";
const NEW: &[u8] = b"new";

fn resource(signer: &[u8], additional: &[&[u8]]) -> Arc<proto::Resource> {
    Arc::new(encode::roots(&TrustedRoots {
        signer: signer.to_vec(),
        additional: additional.iter().map(|root| root.to_vec()).collect(),
    }))
}

#[tokio::test]
async fn roots_are_sent_first_and_at_each_change_and_progress_is_recorded() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let (old, both, new) = (
        resource(OLD, &[]),
        resource(OLD, &[NEW]),
        resource(NEW, &[OLD]),
    );
    controller.roots.send_replace(Some(old));
    let mut proxy = Proxy::of(&controller, "web-0", &[]).await;
    let first = proxy.next().await.unwrap();
    assert_eq!(keys(&first), ["authorization", "roots", "workload"]);
    proxy.ack(first.nonce, &[]).await;
    let root = OLD.to_vec().into();
    proxy
        .say(Kind::Certificate(proto::CertificateInForce { root }))
        .await;
    let counts = |version, root| {
        let found = controller
            .registry
            .root_progress(version, RootFingerprint::of(root));
        (found.connected, found.trusting, found.renewed)
    };

    controller.roots.send_replace(Some(Arc::clone(&both)));
    let second = proxy.next().await.unwrap();
    assert_eq!(keys(&second), ["roots"]);
    eventually("the certificate is known", || counts(0, OLD).2 == 1).await;
    assert_eq!(counts(both.version, NEW), (1, 0, 0), "not yet acknowledged");
    proxy.ack(second.nonce, &[]).await;
    eventually("it trusts the new root", || {
        counts(both.version, NEW) == (1, 1, 0)
    })
    .await;

    controller.roots.send_replace(Some(Arc::clone(&new)));
    let third = proxy.next().await.unwrap();
    proxy.ack(third.nonce, &[]).await;
    let root = NEW.to_vec().into();
    proxy
        .say(Kind::Certificate(proto::CertificateInForce { root }))
        .await;
    eventually("it has renewed", || counts(new.version, NEW) == (1, 1, 1)).await;
}

#[tokio::test]
async fn roots_are_sent_on_each_stream() {
    let controller = controller(Some(WEB), Some(snapshot("10.1.0.2")), Limits::default()).await;
    let roots = resource(OLD, &[]);
    controller.roots.send_replace(Some(Arc::clone(&roots)));
    let mut proxy = Proxy::of(&controller, "web-0", &[("roots", roots.version)]).await;
    let first = proxy.next().await.unwrap();
    assert_eq!(keys(&first), ["authorization", "roots", "workload"]);
    proxy.ack(first.nonce, &["roots"]).await;
    let untrusting = || {
        controller
            .registry
            .root_progress(roots.version, "0".parse().unwrap())
            .untrusting
    };
    eventually("a refusal is no trust", || untrusting().len() == 1).await;
}

//! The roots that a proxy trusts, and those that its certificate is signed by: from the file, the
//! signing response, and the stream.

use std::sync::Arc;
use std::time::Duration;

use crate::control_support::*;
use rustls_pki_types::CertificateDer;
use weft_proxy::run::Control;
use weft_testkit::controller::{Event, FakeController};
use weft_testkit::pki::Pki;

fn anchors(proxy: &Control) -> usize {
    let metrics = &proxy.context.metrics;
    usize::try_from(metrics.trusted_roots.get()).unwrap()
}

/// Waits until the proxy has reported a certificate of this root, in an event from `skip` on.
async fn certificate_reported(setup: &Setup, skip: usize, root: &CertificateDer<'static>) {
    let is_said = |event: &Event| *event == Event::Certificate(root.clone());
    setup.controller.wait_for(skip, is_said).await.unwrap();
}

/// Waits for an acknowledgement after the first `skip` events.
async fn acked(setup: &Setup, skip: usize) {
    let is_ack = |event: &Event| matches!(event, Event::Ack(ack) if ack.refused.is_empty());
    setup.controller.wait_for(skip, is_ack).await.unwrap();
}

#[tokio::test]
async fn roots_of_file_and_controller_are_merged() {
    let setup = Setup::new("roots").await;
    let (named, added) = (Pki::new().unwrap(), Pki::new().unwrap());
    setup.controller.set_extra_roots(vec![named.root()]);
    let proxy = setup.proxy();
    configured(&proxy).await;
    let metrics = proxy.context.metrics.clone();
    // The controller's own root is in both sources and counts once.
    assert_eq!(metrics.trusted_roots.get(), 2);
    let both = setup.pki.root_pem() + &added.root_pem();
    setup.volume.write("ca.crt", &both);
    until("the file's new root", || metrics.trusted_roots.get() == 3).await;
    assert_eq!(metrics.certificate_renewals.get(), 1);
}

#[tokio::test]
async fn root_is_rotated_by_stream_alone() {
    let setup = Setup::new("rotated").await;
    setup.controller.set_lifetime(Duration::from_secs(60));
    let (old, new) = (setup.pki.clone(), Arc::new(Pki::new().unwrap()));
    setup.controller.set_roots(&[&old]);
    let proxy = setup.proxy();
    configured(&proxy).await;
    certificate_reported(&setup, 0, &old.root()).await;
    let metrics = proxy.context.metrics.clone();

    let events = || setup.controller.events().len();
    let skip = events();
    setup.controller.set_roots(&[&old, &new]);
    acked(&setup, skip).await;
    until("both are trusted", || anchors(&proxy) == 2).await;
    assert_eq!(
        metrics.certificate_renewals.get(),
        1,
        "no renewal before the new root signs"
    );

    // The new root signs: the certificate is renewed within a tenth of its lifetime, not at 70 %.
    let skip = events();
    setup.controller.set_pki(new.clone());
    setup.controller.set_extra_roots(vec![old.root()]);
    let sent_at = std::time::Instant::now();
    setup.controller.set_roots(&[&new, &old]);
    certificate_reported(&setup, skip, &new.root()).await;
    assert!(
        sent_at.elapsed() < Duration::from_secs(8),
        "{:?}",
        sent_at.elapsed()
    );
    assert_eq!(metrics.certificate_renewals.get(), 2);
    assert_eq!(anchors(&proxy), 2);

    // The old root is withdrawn, and the file that still has it does not bring it back.
    setup.controller.set_roots(&[&new]);
    until("the old one is withdrawn", || anchors(&proxy) == 1).await;
    setup
        .volume
        .write("ca.crt", &(old.root_pem() + &new.root_pem()));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(anchors(&proxy), 1, "roots of a stale file are not trusted");
    assert!(proxy.context.store.connected());
}

#[tokio::test]
async fn invalid_root_resource_is_refused() {
    let setup = Setup::new("no-root").await;
    setup.controller.set_roots(&[&setup.pki]);
    let proxy = setup.proxy();
    configured(&proxy).await;
    let skip = setup.controller.events().len();
    let garbage = weft_ir::TrustedRoots {
        signer: b"garbage".to_vec(),
        additional: vec![],
    };
    setup.controller.set([weft_api::encode::roots(&garbage)]);
    let refused = |event: &Event| matches!(event, Event::Ack(ack) if !ack.refused.is_empty());
    let refused = setup.controller.wait_for(skip, refused).await.unwrap();
    let Event::Ack(ack) = refused else { panic!() };
    assert_eq!(ack.refused[0].key, "roots");
    assert_eq!(anchors(&proxy), 1);
}

#[tokio::test]
async fn file_root_is_trusted_while_stream_is_down() {
    let mut setup = Setup::new("replaced").await;
    setup.controller.set_roots(&[&setup.pki]);
    let proxy = setup.proxy();
    configured(&proxy).await;
    until("the stream's roots", || anchors(&proxy) == 1).await;
    setup.controller.stop();
    let store = proxy.context.store.clone();
    until("the stream is lost", || !store.connected()).await;
    setup
        .volume
        .write("ca.crt", &Pki::new().unwrap().root_pem());
    until("the file's root beside the stream's", || {
        anchors(&proxy) == 2
    })
    .await;
    setup.controller.restart().await.unwrap();
    until("the stream's roots alone", || anchors(&proxy) == 1).await;
}

/// Replaces the controller by one with another root at the same address, as after the loss of the
/// root's key.
async fn lose_root(setup: &mut Setup) -> Arc<Pki> {
    let pki = Arc::new(Pki::new().unwrap());
    let address = setup.controller.address();
    setup.controller.stop();
    let mut attempts = 0;
    setup.controller = loop {
        let started = FakeController::start_at(address, pki.clone(), identity(), "right").await;
        match started {
            Ok(controller) => break controller,
            // The old controller's port is released asynchronously.
            Err(error) => assert!(attempts < 100, "{error:#}"),
        }
        attempts += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    setup
        .controller
        .set_workload(&weft_ir::Workload::new(identity(), weft_ir::Mode::Strict));
    setup.controller.set_roots(&[&pki]);
    pki
}

/// Waits until the stream is up with a certificate of `root`, the only trusted root.
async fn recovered(setup: &Setup, proxy: &Control, root: &CertificateDer<'static>) {
    let is_said = |event: &Event| *event == Event::Certificate(root.clone());
    until_within(30, "a certificate of the new root", || {
        setup.controller.events().iter().any(is_said)
    })
    .await;
    until("the stream", || proxy.context.store.connected()).await;
    until("the new root alone", || anchors(proxy) == 1).await;
    let workload = proxy.context.store.workload().unwrap();
    assert_eq!(workload.mode, weft_ir::Mode::Strict);
}

#[tokio::test]
async fn proxy_recovers_from_lost_root_without_restart() {
    let mut setup = Setup::new("lost").await;
    setup.controller.set_roots(&[&setup.pki]);
    let proxy = setup.proxy();
    configured(&proxy).await;
    let pki = lose_root(&mut setup).await;
    // The kubelet updates the volume late.
    tokio::time::sleep(Duration::from_secs(2)).await;
    setup.volume.write("ca.crt", &pki.root_pem());
    recovered(&setup, &proxy, &pki.root()).await;
    assert_eq!(proxy.context.metrics.certificate_renewals.get(), 2);
}

#[tokio::test]
async fn certificate_refused_by_controller_is_replaced() {
    let mut setup = Setup::new("refused").await;
    setup.controller.set_roots(&[&setup.pki]);
    let proxy = setup.proxy();
    configured(&proxy).await;
    let pki = lose_root(&mut setup).await;
    // The file keeps the old root beside the new one: only the refusal shows that the old one is
    // gone.
    let both = setup.pki.root_pem() + &pki.root_pem();
    setup.volume.write("ca.crt", &both);
    recovered(&setup, &proxy, &pki.root()).await;
}

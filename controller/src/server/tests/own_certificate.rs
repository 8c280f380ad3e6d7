//! The certificate of the server and its renewal.

use super::*;

fn served(io: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    io.get_ref().1.peer_certificates().unwrap()[0].clone()
}

#[tokio::test]
async fn new_root_replaces_the_certificate_and_keeps_connections() {
    let server = server().await;
    let before = served(&server.tls(None).await.unwrap());
    let bob = server.shown("bob");
    let channel = server
        .channel(Some((bob.0.clone(), bob.1.clone_key())))
        .await;
    let mut open = subscribe(channel).await.unwrap();
    ask(&mut open).await;

    let old_root = server.trust().authority.root().clone();
    let next = trust().succeeding(&server.trust(), now()).unwrap();
    server.trust.send_replace(Arc::new(next));
    let replaced = async {
        loop {
            let now = served(&server.tls(None).await.unwrap());
            if now != before {
                return now;
            }
        }
    };
    let new = timeout(BOUND, replaced).await.expect("replaced");
    let only_new = crate::identity::Bundle::of([server.trust().authority.root().clone()]).unwrap();
    let usage = webpki::KeyUsage::server_auth();
    only_new.verify(&new, &[], usage, now()).unwrap();
    assert_ne!(&old_root, server.trust().authority.root());
    // The open stream continues, and a certificate of the old root is still accepted.
    assert_eq!(ask(&mut open).await, [BOB]);
    let mut again = subscribe(server.channel(Some(bob)).await).await.unwrap();
    assert_eq!(ask(&mut again).await, [BOB]);
}

#[tokio::test]
async fn certificate_is_renewed_at_seventy_percent_of_its_lifetime() {
    let (_sender, receiver) = watch::channel(Arc::new(trust()));
    let tls = ServerIdentity {
        trust: receiver,
        identity: identity("weft-system", "weft-controller"),
        dns_names: vec![DNS.to_owned()],
        lifetime: Duration::from_secs(1000),
        metrics: Metrics::default(),
    };
    let start: OffsetDateTime = now();
    let serving = crate::identity::Serving::new(&tls, start).unwrap();
    let at = |seconds| start + time::Duration::seconds(seconds);
    assert!(!serving.refresh(&tls, at(699)).unwrap());
    assert!(serving.refresh(&tls, at(701)).unwrap());
    assert!(!serving.refresh(&tls, at(702)).unwrap());
    assert!(serving.refresh(&tls, at(701 + 701)).unwrap());
}

//! Which client certificates are accepted, and as whom.

use super::*;

#[tokio::test]
async fn client_is_identified_by_its_certificate() {
    let server = server().await;
    let channel = server.channel(Some(server.shown("bob"))).await;
    let mut stream = subscribe(channel).await.unwrap();
    assert_eq!(ask(&mut stream).await, [BOB]);
}

#[tokio::test]
async fn without_a_certificate_only_the_certificate_authority_answers() {
    let server = server().await;
    let refused = subscribe(server.channel(None).await).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut authority = CertificateAuthorityClient::new(server.channel(None).await);
    let status = authority.sign(SignRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("127.0.0.1"), "{status}");
    let huge = SignRequest {
        csr: vec![0; 100_000].into(),
        token: String::new(),
    };
    let again = authority.sign(huge.clone()).await.unwrap_err();
    assert_eq!(again.code(), Code::ResourceExhausted, "{again}");
    let mut authority = CertificateAuthorityClient::new(server.channel(None).await);
    let status = authority.sign(huge).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test]
async fn foreign_client_certificates_are_rejected() {
    let server = server().await;
    assert!(server.takes(server.shown("bob")).await);

    let other_root = trust();
    assert!(!server.takes(shown_by(&other_root, "bob")).await);

    let key = KeyPair::generate().unwrap();
    let long_ago = now() - time::Duration::seconds(50);
    let short = Duration::from_secs(1);
    let ended = server
        .trust()
        .authority
        .sign(&key, &identity("shop", "bob"), short, long_ago)
        .unwrap();
    assert!(!server.takes((ended.chain, key.into())).await);
    assert_eq!(server.metrics.handshakes(HandshakeResult::Failed), 2);
}

/// A server whose root's key the test holds, to sign what the authority never would.
async fn with_open_root() -> (Server, rcgen::Issuer<'static, KeyPair>) {
    let server = server().await;
    let root = crate::identity::new_root(now()).unwrap();
    let key = KeyPair::from_pem(&root.key).unwrap();
    let next = crate::identity::tests::read(&root).unwrap();
    server.trust.send_replace(Arc::new(next));
    let issuer = rcgen::Issuer::from_ca_cert_pem(&root.certificate, key).unwrap();
    (server, issuer)
}

#[tokio::test]
async fn client_certificate_must_name_one_identity_of_this_mesh() {
    let (server, issuer) = with_open_root().await;
    let shown = |names: &[&str], usage| {
        let key = KeyPair::generate().unwrap();
        let mut params: CertificateParams = request(names.iter().map(|n| uri(n)).collect());
        params.not_before = now() - time::Duration::minutes(1);
        params.not_after = now() + time::Duration::minutes(1);
        params.extended_key_usages = vec![usage];
        let leaf = params.signed_by(&key, &issuer).unwrap();
        (vec![leaf.der().clone()], PrivateKeyDer::from(key))
    };
    let client = rcgen::ExtendedKeyUsagePurpose::ClientAuth;
    let other = rcgen::ExtendedKeyUsagePurpose::ServerAuth;
    // The new root must be in force before the server's own certificate can be verified.
    timeout(BOUND, async { while server.tls(None).await.is_err() {} })
        .await
        .expect("the new root's certificate is served");
    assert!(server.takes(shown(&[BOB], client.clone())).await);
    for names in [
        &[][..],
        &[BOB, BOB],
        &[BOB, "https://example.com/"],
        &["https://example.com/"],
        &["spiffe://other.domain/ns/shop/sa/bob"],
        &["spiffe://cluster.local/bob"],
    ] {
        assert!(
            !server.takes(shown(names, client.clone())).await,
            "{names:?}"
        );
    }
    assert!(!server.takes(shown(&[BOB], other)).await);
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let server = server().await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from(DNS).unwrap();
    let refused = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
}

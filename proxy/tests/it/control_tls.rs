//! Mutual TLS between proxies, in memory: which peers are accepted, and what a rotation affects.

use std::sync::Arc;

use rustls::client::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_api::alpn;
use weft_ir::{Identity, TrustDomain};
use weft_proxy::tls::credentials::{Credentials, CurrentCredentials, Roots};
use weft_proxy::tls::{HandshakeError, Tls, peer_identity};
use weft_testkit::pki::{Leaf, LeafSpec, Pki};

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn identity(account: &str) -> Identity {
    Identity::new(domain("cluster.local"), "shop", account).unwrap()
}

/// One side's TLS, with the leaf certificate that a test gives it.
struct Side {
    tls: Tls,
    current: CurrentCredentials,
}

impl Side {
    fn new(leaf: &Leaf, roots: &[CertificateDer<'static>]) -> Self {
        let current = CurrentCredentials::default();
        current.set(credentials(leaf, roots));
        let tls = Tls::new(current.clone(), domain("cluster.local")).unwrap();
        Self { tls, current }
    }

    fn of(pki: &Pki, spec: &LeafSpec) -> Self {
        Self::new(&pki.issue(spec).unwrap(), &[pki.root()])
    }
}

fn credentials(leaf: &Leaf, roots: &[CertificateDer<'static>]) -> Credentials {
    Credentials {
        key: Arc::new(leaf.certified().unwrap()),
        roots: Arc::new(Roots::new(roots.iter()).0),
        root: None,
        not_before: 0,
        not_after: i64::MAX,
    }
}

type Client = tokio_rustls::client::TlsStream<DuplexStream>;
type Server = tokio_rustls::server::TlsStream<DuplexStream>;

/// Performs a handshake and exchanges a byte each way: in TLS 1.3 the client learns of a refusal
/// only when it reads.
async fn meet(
    client: Arc<ClientConfig>,
    server: &Tls,
) -> (Result<Client, &'static str>, Result<Server, &'static str>) {
    meet_server(client, server.server_config()).await
}

async fn meet_server(
    client: Arc<ClientConfig>,
    server: Arc<rustls::ServerConfig>,
) -> (Result<Client, &'static str>, Result<Server, &'static str>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let name = ServerName::try_from("weft").unwrap();
    let client = async {
        let mut tls = TlsConnector::from(client).connect(name, near).await?;
        tls.write_all(b"?").await?;
        tls.flush().await?;
        tls.read_u8().await?;
        Ok(tls)
    };
    let server = async {
        let mut tls = TlsAcceptor::from(server).accept(far).await?;
        tls.read_u8().await?;
        tls.write_all(b"!").await?;
        tls.flush().await?;
        Ok(tls)
    };
    let (client, server) = futures::future::join(client, server).await;
    let why = |error: std::io::Error| HandshakeError::from(&error).as_str();
    (client.map_err(why), server.map_err(why))
}

fn to(client: &Side, expected: &Identity) -> Arc<ClientConfig> {
    client.tls.client_config(expected, alpn::H2_FOR_H1).unwrap()
}

#[tokio::test]
async fn proxies_of_one_mesh_authenticate_each_other() {
    let pki = Pki::new().unwrap();
    let front = Side::of(&pki, &LeafSpec::new(&identity("front")));
    let back = Side::of(&pki, &LeafSpec::new(&identity("back")));
    let (client, server) = meet(to(&front, &identity("back")), &back.tls).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    let (client, server) = (client.get_ref().1, server.get_ref().1);
    assert_eq!(
        peer_identity(client.peer_certificates()),
        Ok(identity("back"))
    );
    assert_eq!(
        peer_identity(server.peer_certificates()),
        Ok(identity("front"))
    );
    assert_eq!(server.alpn_protocol(), Some(alpn::H2_FOR_H1));
    assert_eq!(
        server.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    let group = server.negotiated_key_exchange_group().map(|g| g.name());
    assert_eq!(group, Some(rustls::NamedGroup::X25519MLKEM768));
    assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));

    // A second handshake is not resumed, so the certificate is verified again.
    let (client, _server) = meet(to(&front, &identity("back")), &back.tls).await;
    let client = client.unwrap();
    assert_eq!(
        client.get_ref().1.handshake_kind(),
        Some(rustls::HandshakeKind::Full)
    );
}

/// Certificates that both sides refuse, each with its label in the handshake metric.
fn bad_leaves() -> Vec<(&'static str, LeafSpec)> {
    let good = LeafSpec::new(&identity("other"));
    let foreign = Identity::new(domain("elsewhere.local"), "shop", "other").unwrap();
    vec![
        ("expired", good.clone().expired()),
        ("not_yet_valid", good.clone().not_yet_valid()),
        ("identity", LeafSpec::new(&foreign)),
        (
            "identity",
            good.clone()
                .with_uri("spiffe://cluster.local/ns/shop/sa/second"),
        ),
        ("identity", good.clone().with_uri("https://example.com/")),
        ("identity", good.clone().without_uris()),
        (
            "identity",
            good.without_uris().with_uri("spiffe://cluster.local/shop"),
        ),
    ]
}

#[tokio::test]
async fn client_with_invalid_certificate_is_refused() {
    let pki = Pki::new().unwrap();
    let back = Side::of(&pki, &LeafSpec::new(&identity("back")));
    let only_server = LeafSpec::new(&identity("other"));
    let only_server = only_server.only(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let bad = bad_leaves().into_iter().chain([("usage", only_server)]);
    for (reason, spec) in bad {
        let client = Side::of(&pki, &spec);
        let (client, server) = meet(to(&client, &identity("back")), &back.tls).await;
        assert_eq!(server.err(), Some(reason), "{spec:?}");
        assert_eq!(client.err(), Some("refused_by_peer"), "{spec:?}");
    }
}

#[tokio::test]
async fn server_with_invalid_certificate_is_refused() {
    let pki = Pki::new().unwrap();
    let front = Side::of(&pki, &LeafSpec::new(&identity("front")));
    let only_client = LeafSpec::new(&identity("other"));
    let only_client = only_client.only(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let another = ("identity", LeafSpec::new(&identity("third")));
    let bad = bad_leaves()
        .into_iter()
        .chain([("usage", only_client), another]);
    for (reason, spec) in bad {
        let server = Side::of(&pki, &spec);
        let (client, server) = meet(to(&front, &identity("other")), &server.tls).await;
        assert_eq!(client.err(), Some(reason), "{spec:?}");
        assert_eq!(server.err(), Some("refused_by_peer"), "{spec:?}");
    }
}

#[tokio::test]
async fn peer_with_untrusted_root_is_refused() {
    let (ours, theirs) = (Pki::new().unwrap(), Pki::new().unwrap());
    let front = Side::of(&ours, &LeafSpec::new(&identity("front")));
    let forged = theirs.leaf(&identity("back")).unwrap();
    let server = Side::new(&forged, &[ours.root()]);
    let (client, _) = meet(to(&front, &identity("back")), &server.tls).await;
    assert_eq!(client.err(), Some("untrusted"));
    let back = Side::of(&ours, &LeafSpec::new(&identity("back")));
    let client = Side::new(&forged, &[ours.root()]);
    let (_, server) = meet(to(&client, &identity("back")), &back.tls).await;
    assert_eq!(server.err(), Some("untrusted"));
}

#[tokio::test]
async fn client_without_certificate_is_refused() {
    let pki = Pki::new().unwrap();
    let back = Side::of(&pki, &LeafSpec::new(&identity("back")));
    let roots = rustls::RootCertStore::empty();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (client, _) = meet(Arc::new(config), &back.tls).await;
    assert!(client.is_err());

    // A client without a certificate that accepts the server's.
    let current = CurrentCredentials::default();
    let tls = Tls::new(current, domain("cluster.local")).unwrap();
    let roots = Arc::new(Roots::new([pki.root()].iter()).0);
    let mut config = (*tls.authority_config(&identity("back"), roots).unwrap()).clone();
    config.alpn_protocols = vec![alpn::TCP.to_vec()];
    let (client, server) = meet(Arc::new(config), &back.tls).await;
    assert_eq!(server.err(), Some("no_certificate"));
    assert_eq!(client.err(), Some("refused_by_peer"));
}

#[tokio::test]
async fn server_without_certificate_fails_handshake() {
    let pki = Pki::new().unwrap();
    let front = Side::of(&pki, &LeafSpec::new(&identity("front")));
    let bare = Tls::new(CurrentCredentials::default(), domain("cluster.local")).unwrap();
    let (client, server) = meet(to(&front, &identity("back")), &bare).await;
    assert_eq!(client.err(), Some("refused_by_peer"));
    assert_eq!(server.err(), Some("protocol"));
}

#[tokio::test]
async fn mesh_tls_refuses_versions_below_1_3() {
    let pki = Pki::new().unwrap();
    let back = Side::of(&pki, &LeafSpec::new(&identity("back")));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.root()).unwrap();
    let own = pki.leaf(&identity("front")).unwrap();
    let mut old_client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(own.chain, own.key)
        .unwrap();
    old_client.alpn_protocols = vec![alpn::H2.to_vec()];
    let (client, server) = meet(Arc::new(old_client), &back.tls).await;
    assert_eq!(server.err(), Some("incompatible"));
    assert_eq!(client.err(), Some("refused_by_peer"));

    let own = pki.leaf(&identity("back")).unwrap();
    let old_server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(own.chain, own.key)
        .unwrap();
    let front = Side::of(&pki, &LeafSpec::new(&identity("front")));
    let (client, server) = meet_server(to(&front, &identity("back")), old_server.into()).await;
    assert_eq!(server.err(), Some("incompatible"));
    assert_eq!(client.err(), Some("refused_by_peer"));
}

#[tokio::test]
async fn rotation_keeps_established_connections() {
    let (old, new) = (Pki::new().unwrap(), Pki::new().unwrap());
    let front = Side::of(&old, &LeafSpec::new(&identity("front")));
    let back = Side::of(&old, &LeafSpec::new(&identity("back")));
    let config = to(&front, &identity("back"));
    let (client, server) = meet(config.clone(), &back.tls).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());

    let both = [old.root(), new.root()];
    let renewed = new.leaf(&identity("back")).unwrap();
    back.current.set(credentials(&renewed, &both));
    let (refused, _) = meet(config.clone(), &back.tls).await;
    assert_eq!(
        refused.err(),
        Some("untrusted"),
        "the new root is not trusted yet"
    );
    front
        .current
        .set(credentials(&old.leaf(&identity("front")).unwrap(), &both));
    // The same configuration object: credentials are read at each handshake.
    let (renewed_client, renewed_server) = meet(config.clone(), &back.tls).await;
    assert!(renewed_client.is_ok() && renewed_server.is_ok());

    let swapped = new.leaf(&identity("front")).unwrap();
    front.current.set(credentials(&swapped, &[new.root()]));
    back.current.set(credentials(&renewed, &[new.root()]));
    let (client_now, server_now) = meet(config, &back.tls).await;
    assert!(client_now.is_ok() && server_now.is_ok());

    client.write_all(b"still here").await.unwrap();
    client.flush().await.unwrap();
    let mut read = [0; 10];
    server.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"still here");
}

//! Gateway ports with TLS: the certificate that is presented, validation of client certificates,
//! termination and passthrough.

use crate::support::gateway::{
    GatewayPod, TlsClient, all_to, at, free_port, host, port, server_tls,
};
use crate::support::*;
use http::Request;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ProtocolVersion, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_api::proto;
use weft_ir::{
    ClientValidation, KeyPair, Protocol, ServerTls, Serving, TlsListener, TlsRule, TlsServing,
    VirtualHost,
};
use weft_testkit::pki::{LeafSpec, Pki, ServerKey};
use weft_testkit::upstream::{Speaks, Upstream};

const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

struct Shop {
    pki: Pki,
    gateway: GatewayPod,
    apps: Vec<Upstream>,
    number: u16,
}

impl Shop {
    async fn start(speaks: Speaks) -> Self {
        let mut apps = Vec::new();
        for name in ["v1", "v2"] {
            apps.push(Upstream::start(name, speaks).await.unwrap());
        }
        Self {
            pki: Pki::new().unwrap(),
            gateway: GatewayPod::start(),
            apps,
            number: free_port(),
        }
    }

    fn resources(&self, listeners: Vec<TlsListener>) -> Vec<proto::Resource> {
        let apps = self.apps.iter().zip(["v1", "v2"]);
        let mut resources: Vec<_> = apps
            .map(|(app, name)| endpoints(name, Protocol::Detect, &[unmeshed(app.address())]))
            .collect();
        resources.push(port(self.number, Serving::Tls(listeners)));
        resources
    }

    fn tell(&self, listeners: Vec<TlsListener>) {
        self.gateway.tell(self.resources(listeners));
    }

    fn pair(&self, names: &[&str]) -> KeyPair {
        self.pki.server(names, ServerKey::Ecdsa).unwrap()
    }

    async fn https(&self, client: &TlsClient, name: &str, version: Version) -> Client {
        let client = client.clone().alpn(match version {
            Version::Http1 => "http/1.1",
            Version::Http2 => "h2",
        });
        let stream = client.connect(at(self.number), name).await.unwrap();
        Client::over(stream, version).await
    }
}

fn https(hostname: &str, tls: ServerTls, hosts: Vec<VirtualHost>) -> TlsListener {
    tls_listener(
        hostname,
        TlsServing::Http {
            tls,
            external_auth: Vec::new(),
            hosts,
        },
    )
}

fn tls_listener(hostname: &str, serving: TlsServing) -> TlsListener {
    TlsListener {
        name: format!("listener {hostname}").into(),
        hostname: (!hostname.is_empty()).then(|| hostname.parse().unwrap()),
        serving,
    }
}

fn one(pair: KeyPair) -> ServerTls {
    server_tls(vec![pair], None)
}

async fn get(client: &mut Client, host: &str) -> TestResponse {
    let request = Request::get("/").header("host", host);
    client.send(request, "").await
}

#[tokio::test]
async fn https_listener_is_chosen_by_sni_and_misdirected_request_gets_421() {
    let shop = Shop::start(Speaks::Http1).await;
    shop.tell(vec![
        https(
            "",
            one(shop.pair(&["any.org", "other.org"])),
            vec![host("any.org", all_to("v1"))],
        ),
        https(
            "a.com",
            one(shop.pair(&["a.com"])),
            vec![host("a.com", all_to("v2"))],
        ),
        https(
            "*.w.com",
            one(shop.pair(&["*.w.com"])),
            vec![host("*.w.com", all_to("v1"))],
        ),
    ]);
    for versions in [TLS12, TLS13] {
        for version in BOTH {
            let mut client = TlsClient::new(&shop.pki);
            client.versions = versions;
            for (name, host, status, upstream) in [
                ("any.org", "any.org", 200, "v1"),
                ("any.org", "a.com", 421, ""),
                ("any.org", "unknown.org", 404, ""),
                ("other.org", "any.org", 200, "v1"),
                ("a.com", "a.com", 200, "v2"),
                ("a.com", "any.org", 421, ""),
                ("x.w.com", "y.w.com", 200, "v1"),
                ("x.w.com", "a.com", 421, ""),
            ] {
                let mut client = shop.https(&client, name, version).await;
                let seen = get(&mut client, host).await;
                let found = (seen.status, seen.header("x-upstream"));
                assert_eq!(
                    found,
                    (status, upstream),
                    "{versions:?} {version:?} {name} {host}"
                );
                if status == 200 {
                    assert_eq!(seen.header("x-saw-x-forwarded-proto"), "https");
                }
            }
        }
    }
}

#[tokio::test]
async fn unknown_sni_and_plaintext_are_refused() {
    let shop = Shop::start(Speaks::Http1).await;
    shop.tell(vec![https("a.com", one(shop.pair(&["a.com"])), vec![])]);
    let client = TlsClient::new(&shop.pki);
    for name in ["b.com", "127.0.0.1"] {
        let error = client.connect(at(shop.number), name).await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    }
    let mut tcp = tokio::net::TcpStream::connect(at(shop.number))
        .await
        .unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: a.com\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
}

#[tokio::test]
async fn server_certificate_matches_sni_and_key_type() {
    let shop = Shop::start(Speaks::Http1).await;
    let (ecdsa, rsa) = (ServerKey::Ecdsa, ServerKey::Rsa);
    let pair = |name: &str, kind| shop.pki.server(&[name], kind).unwrap();
    let certificates = vec![
        pair("a.com", ecdsa),
        pair("a.com", rsa),
        pair("*.b.com", rsa),
    ];
    let read = |pair: &KeyPair| CertificateDer::from_pem_slice(&pair.chain).unwrap();
    let leaves: Vec<_> = certificates.iter().map(read).collect();
    let tls = server_tls(certificates, None);
    shop.tell(vec![https("", tls, vec![host("", all_to("v1"))])]);
    let all = rustls::crypto::aws_lc_rs::default_provider();
    let mut only_rsa = all.clone();
    only_rsa
        .cipher_suites
        .retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
    for (provider, versions, name, place) in [
        (&all, TLS13, "a.com", 0),
        (&all, TLS12, "a.com", 0),
        (&only_rsa, TLS12, "a.com", 1),
        (&all, TLS13, "x.b.com", 2),
    ] {
        let mut client = TlsClient::new(&shop.pki);
        client.versions = versions;
        client.provider = provider.clone();
        let stream = client.connect(at(shop.number), name).await.unwrap();
        let session = stream.get_ref().1;
        let shown = &session.peer_certificates().unwrap()[0];
        assert_eq!(*shown, leaves[place], "{name} {versions:?}");
        let expected = if versions == TLS12 {
            ProtocolVersion::TLSv1_2
        } else {
            ProtocolVersion::TLSv1_3
        };
        assert_eq!(session.protocol_version(), Some(expected));
    }
}

#[tokio::test]
async fn client_certificate_is_required_by_client_validation() {
    let shop = Shop::start(Speaks::Http1).await;
    let stranger = Pki::new().unwrap();
    let validated = |name: &str, roots: &str, insecure_fallback| {
        let clients = ClientValidation {
            roots: roots.as_bytes().into(),
            insecure_fallback,
        };
        let tls = server_tls(vec![shop.pair(&[name])], Some(clients));
        https(name, tls, vec![host(name, all_to("v1"))])
    };
    let roots = shop.pki.root_pem();
    shop.tell(vec![
        validated("checked.com", &roots, false),
        validated("rootless.com", "", false),
        validated("open.com", &roots, true),
        validated("open-rootless.com", "", true),
    ]);
    let own = |pki: &Pki| {
        let leaf = pki.issue(&LeafSpec::of_hosts(&["client.com"])).unwrap();
        Some((leaf.chain[0].clone(), leaf.key.secret_der().into()))
    };
    for versions in [TLS12, TLS13] {
        for (name, certificate, let_in) in [
            ("checked.com", own(&shop.pki), true),
            ("checked.com", own(&stranger), false),
            ("checked.com", None, false),
            ("rootless.com", own(&shop.pki), false),
            ("rootless.com", None, false),
            ("open.com", own(&stranger), true),
            ("open.com", None, true),
            ("open-rootless.com", own(&stranger), true),
        ] {
            let mut client = TlsClient::new(&shop.pki).alpn("http/1.1");
            client.versions = versions;
            client.own = certificate.clone();
            let answer = async {
                // With TLS 1.3 a client learns of the refusal only after its handshake.
                let mut stream = client.connect(at(shop.number), name).await?;
                let request = format!("GET / HTTP/1.0\r\nhost: {name}\r\n\r\n");
                stream.write_all(request.as_bytes()).await?;
                let mut first = [0; 12];
                stream.read_exact(&mut first).await?;
                Ok::<_, std::io::Error>(first)
            };
            let answer = answer.await;
            let found = answer.is_ok_and(|first| first.ends_with(b" 200"));
            assert_eq!(
                found,
                let_in,
                "{name} {} {versions:?}",
                certificate.is_some()
            );
        }
    }
}

#[tokio::test]
async fn tls_terminate_passthrough_and_https_share_one_port() {
    let shop = Shop::start(Speaks::Echo).await;
    let rules = |name: &str, backend: &str| {
        vec![TlsRule {
            hostnames: vec![name.parse().unwrap()],
            rule: weft_ir::ConnectionRule {
                route: weft_ir::RouteId {
                    kind: weft_ir::RouteKind::Tls,
                    namespace: "shop".into(),
                    name: "names".into(),
                },
                index: 0,
                name: None,
                backends: vec![to(backend, 1)],
            },
        }]
    };
    let terminate = TlsServing::Terminate {
        tls: one(shop.pair(&["*.ends.com"])),
        rules: rules("a.ends.com", "v1"),
    };
    let passthrough = TlsServing::Passthrough {
        rules: rules("a.passes.com", "v2"),
    };
    shop.tell(vec![
        tls_listener("*.ends.com", terminate),
        tls_listener("*.passes.com", passthrough),
        https(
            "h.com",
            one(shop.pair(&["h.com"])),
            vec![host("h.com", all_to("v1"))],
        ),
    ]);
    let client = TlsClient::new(&shop.pki);
    let mut stream = client.connect(at(shop.number), "a.ends.com").await.unwrap();
    stream.write_all(b"within").await.unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"within");
    let mut none = client.connect(at(shop.number), "b.ends.com").await.unwrap();
    assert!(!matches!(none.read(&mut answer).await, Ok(1..)));
    // The echo application returns the ClientHello, which is no ServerHello.
    assert!(
        client
            .connect(at(shop.number), "a.passes.com")
            .await
            .is_err()
    );
    let connections: Vec<_> = shop.apps.iter().map(Upstream::connections).collect();
    assert_eq!(connections, [1, 1]);
    // No alert is sent, as it could be taken for the backend's.
    let closed = client.connect(at(shop.number), "c.com").await.unwrap_err();
    assert!(closed.to_string().contains("eof"), "{closed}");
}

#[tokio::test]
async fn certificate_change_fails_no_handshake() {
    let shop = Shop::start(Speaks::Http1).await;
    let tell = |pair| {
        shop.tell(vec![https(
            "a.com",
            one(pair),
            vec![host("a.com", all_to("v1"))],
        )])
    };
    tell(shop.pair(&["a.com"]));
    let client = TlsClient::new(&shop.pki);
    let mut kept = shop.https(&client, "a.com", Version::Http2).await;
    let mut shown = std::collections::HashSet::new();
    for turn in 0..60 {
        if turn % 20 == 10 {
            tell(shop.pair(&["a.com"]));
        }
        let stream = client.connect(at(shop.number), "a.com").await.unwrap();
        shown.insert(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec());
        assert_eq!(get(&mut kept, "a.com").await.status, 200);
    }
    assert_eq!(shown.len(), 4);
}

#[tokio::test]
async fn invalid_certificate_disables_only_its_listener() {
    let shop = Shop::start(Speaks::Http1).await;
    let broken = KeyPair {
        chain: b"no certificate".as_slice().into(),
        key: b"no key".as_slice().into(),
    };
    let resources = shop.resources(vec![
        https("a.com", one(broken), vec![]),
        https(
            "b.com",
            one(shop.pair(&["b.com"])),
            vec![host("b.com", all_to("v1"))],
        ),
    ]);
    let refused = shop.gateway.try_tell(resources, &[]);
    assert!(
        refused[0].reason.contains("listener a.com: certificate 0"),
        "{refused:?}"
    );
    let client = TlsClient::new(&shop.pki);
    assert!(client.connect(at(shop.number), "a.com").await.is_err());
    let mut client = shop.https(&client, "b.com", Version::Http2).await;
    assert_eq!(get(&mut client, "b.com").await.status, 200);
}

#[tokio::test]
async fn removed_listener_drains_only_its_connections() {
    let shop = Shop::start(Speaks::Http1).await;
    let listener = |name: &str| {
        let tls = one(shop.pair(&[name]));
        https(name, tls, vec![host(name, all_to("v1"))])
    };
    shop.tell(vec![listener("a.com"), listener("b.com")]);
    let tls = TlsClient::new(&shop.pki);
    let mut gone = shop.https(&tls, "a.com", Version::Http2).await;
    let mut stays = shop.https(&tls, "b.com", Version::Http2).await;
    let mut idle = shop.https(&tls, "a.com", Version::Http1).await;
    assert_eq!(get(&mut gone, "a.com").await.status, 200);
    assert_eq!(get(&mut idle, "a.com").await.status, 200);
    let slow = Request::get("/")
        .header("host", "a.com")
        .header("x-delay", "300");
    let (slow, ()) = tokio::join!(gone.send(slow, ""), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        shop.tell(vec![listener("b.com")]);
    });
    assert_eq!(slow.status, 200);
    let last = get(&mut idle, "a.com").await;
    assert_eq!((last.status, last.header("connection")), (200, "close"));
    let closed = async {
        while gone
            .raw(Request::get("/").header("host", "a.com"), "")
            .await
            .is_ok()
        {}
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), closed)
        .await
        .unwrap();
    assert_eq!(get(&mut stays, "b.com").await.status, 200);
}

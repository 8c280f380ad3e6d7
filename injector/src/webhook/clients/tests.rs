//! The webhook over loopback, with clients that show certificates: who may ask it.

use std::io::Write as _;
use std::net::SocketAddr;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use weft_testkit::pki::{Leaf, LeafSpec, Pki};

use super::super::admission::tests::webhook;
use super::super::certificate::{ServedCertificate, WebhookCertificate};
use super::super::server;
use super::*;

const NAME: &str = "weft-injector.weft-system.svc";

/// A file that is removed at the end.
struct File(PathBuf);

impl File {
    fn of(name: &str, content: &str) -> Self {
        let file = format!("weft-injector-clients-{}-{name}", std::process::id());
        let file = Self(std::env::temp_dir().join(file));
        file.write(content);
        file
    }

    /// Replaces the file as the kubelet does: at once.
    fn write(&self, content: &str) {
        let next = self.0.with_extension("next");
        let mut file = std::fs::File::create(&next).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        std::fs::rename(next, &self.0).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn authority(file: &File, names: &[&str]) -> ClientAuthority {
    ClientAuthority::read(clients(file, names)).unwrap()
}

fn clients(file: &File, names: &[&str]) -> Clients {
    Clients {
        bundle: file.0.clone(),
        names: names.iter().map(|&name| name.to_owned()).collect(),
    }
}

fn api_server() -> LeafSpec {
    LeafSpec::of_hosts(&[])
        .with_common_name("kube-apiserver-webhook")
        .only(ExtendedKeyUsagePurpose::ClientAuth)
}

struct Running {
    at: SocketAddr,
    config: ClientConfig,
}

async fn start(clients: Arc<ClientAuthority>) -> Running {
    let day = Duration::from_secs(86_400);
    let now = time::OffsetDateTime::now_utc();
    let made = WebhookCertificate::generate(&[NAME.to_owned()], day, now, None).unwrap();
    let served = Arc::new(ServedCertificate::default());
    served.set(&made);
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(made.bundle().as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let tls = server::tls(served, Some(clients)).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(server::serve(listener, tls, webhook(), stop));
    Running { at, config }
}

impl Running {
    /// A client with this certificate, which resumes its TLS sessions if it can.
    fn client(&self, leaf: Option<&Leaf>) -> Arc<ClientConfig> {
        let mut config = self.config.clone();
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        if let Some(leaf) = leaf {
            let key = Arc::new(leaf.certified().unwrap());
            config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key));
        }
        Arc::new(config)
    }

    /// The answer to a request of the client, or why there is none.
    async fn ask(&self, client: Arc<ClientConfig>) -> std::io::Result<String> {
        let connector = TlsConnector::from(client);
        let tcp = TcpStream::connect(self.at).await?;
        let name = ServerName::try_from(NAME).unwrap();
        let mut stream = connector.connect(name, tcp).await?;
        let request = format!(
            "POST /mutate HTTP/1.1\r\nhost: {NAME}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}"
        );
        // The refusal of a certificate may come while the request is written.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn is_answered(&self, client: &Arc<ClientConfig>) -> bool {
        match self.ask(client.clone()).await {
            // The body is not a review, but the request is answered.
            Ok(answer) => {
                assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
                true
            }
            Err(_) => false,
        }
    }

    async fn is_accepted(&self, leaf: &Leaf) -> bool {
        self.is_answered(&self.client(Some(leaf))).await
    }

    async fn refusal(&self, leaf: Option<&Leaf>) -> String {
        let answer = self.ask(self.client(leaf)).await;
        answer.expect_err("the client is refused").to_string()
    }
}

#[tokio::test]
async fn client_without_a_valid_certificate_is_refused() {
    let (pki, other) = (Pki::new().unwrap(), Pki::new().unwrap());
    let file = File::of("valid", &pki.root_pem());
    let server = start(Arc::new(authority(&file, &[]))).await;
    let right = pki.issue(&api_server()).unwrap();
    assert!(server.is_accepted(&right).await);

    let none = server.refusal(None).await;
    assert!(none.contains("CertificateRequired"), "{none}");
    let of_a_server = api_server().only(ExtendedKeyUsagePurpose::ServerAuth);
    for (what, leaf, alert) in [
        ("another CA", other.issue(&api_server()), "UnknownCA"),
        (
            "expired",
            pki.issue(&api_server().expired()),
            "CertificateExpired",
        ),
        (
            "not yet valid",
            pki.issue(&api_server().not_yet_valid()),
            "CertificateExpired",
        ),
        ("usage", pki.issue(&of_a_server), "UnsupportedCertificate"),
    ] {
        let refusal = server.refusal(Some(&leaf.unwrap())).await;
        assert!(refusal.contains(alert), "{what}: {refusal}");
    }
    assert!(server.is_accepted(&right).await);
}

#[tokio::test]
async fn client_must_have_one_of_the_names() {
    let pki = Pki::new().unwrap();
    let file = File::of("names", &pki.root_pem());
    let names = ["kube-apiserver-webhook", "api.example.com"];
    let server = start(Arc::new(authority(&file, &names))).await;
    let of_hosts = |hosts: &[&str]| LeafSpec::of_hosts(hosts);
    for (spec, accepted) in [
        (api_server(), true),
        (of_hosts(&["api.example.com"]), true),
        (of_hosts(&["other.example.com", "API.example.com"]), true),
        (of_hosts(&[]).with_common_name("system:node:node1"), false),
        (of_hosts(&[]).with_common_name("kube-apiserver"), false),
        (of_hosts(&["kube-apiserver-webhook.example.com"]), false),
        (of_hosts(&["*.example.com"]), false),
        (of_hosts(&[]).with_uri("spiffe://api.example.com/x"), false),
        (of_hosts(&[]), false),
    ] {
        let leaf = pki.issue(&spec).unwrap();
        assert_eq!(server.is_accepted(&leaf).await, accepted, "{spec:?}");
    }
}

#[tokio::test]
async fn replaced_bundle_decides_on_new_connections() {
    let (old, new) = (Pki::new().unwrap(), Pki::new().unwrap());
    let (of_old, of_new) = (old.issue(&api_server()), new.issue(&api_server()));
    let (of_old, of_new) = (of_old.unwrap(), of_new.unwrap());
    let file = File::of("rotated", &old.root_pem());
    let clients = Arc::new(authority(&file, &[]));
    let server = start(clients.clone()).await;
    let (of_old, of_new) = (server.client(Some(&of_old)), server.client(Some(&of_new)));
    let accepted = async || {
        let old = server.is_answered(&of_old).await;
        (old, server.is_answered(&of_new).await)
    };
    assert_eq!(accepted().await, (true, false));
    assert!(!clients.reload().unwrap(), "nothing has changed");

    file.write(&(old.root_pem() + &new.root_pem()));
    assert!(clients.reload().unwrap());
    assert_eq!(accepted().await, (true, true));

    // What is not usable changes nothing.
    for content in ["", "no PEM"] {
        file.write(content);
        clients.reload().unwrap_err();
        assert_eq!(accepted().await, (true, true));
    }

    file.write(&new.root_pem());
    assert!(clients.reload().unwrap());
    assert_eq!(accepted().await, (false, true));
}

#[tokio::test(start_paused = true)]
async fn file_is_followed_and_failures_are_counted() {
    let (old, new) = (Pki::new().unwrap(), Pki::new().unwrap());
    let file = File::of("followed", &old.root_pem());
    let clients = Arc::new(authority(&file, &[]));
    let metrics = Arc::new(Metrics::default());
    let stop = CancellationToken::new();
    let following = tokio::spawn({
        let (clients, metrics, stop) = (clients.clone(), metrics.clone(), stop.clone());
        async move { clients.follow(&metrics, stop).await }
    });
    let round = || tokio::time::sleep(PERIOD + Duration::from_millis(1));
    round().await;
    file.write("");
    round().await;
    assert_eq!(metrics.client_ca_failures.get(), 1);
    file.write(&new.root_pem());
    round().await;
    assert_eq!(clients.current.load().pem, new.root_pem().into_bytes());
    assert_eq!(metrics.client_ca_failures.get(), 1);
    stop.cancel();
    following.await.unwrap();
}

#[test]
fn unusable_bundle_is_an_error_that_names_the_file() {
    let pki = Pki::new().unwrap();
    let cut = pki.root_pem().replacen("MII", "AAA", 1);
    let half = pki.root_pem() + "-----BEGIN CERTIFICATE-----\nAAAA\n";
    for (content, reason) in [
        ("", "no certificate"),
        ("garbage", "no certificate"),
        (cut.as_str(), "certificate 1 is not usable"),
        (half.as_str(), "certificate 2 is not usable"),
    ] {
        let file = File::of("unusable", content);
        let error = ClientAuthority::read(clients(&file, &[])).unwrap_err();
        let error = error.to_string();
        let path = file.0.display().to_string();
        assert!(error.contains(&path) && error.contains(reason), "{error}");
    }
    let absent = Clients {
        bundle: "/nonexistent/ca.crt".into(),
        names: Vec::new(),
    };
    let error = ClientAuthority::read(absent).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/ca.crt"), "{error}");
}

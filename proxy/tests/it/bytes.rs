//! Protocols other than HTTP through a pair of proxies, without any declaration: Redis and
//! PostgreSQL (the client sends first), MySQL and SMTP (the server sends first), and TLS of the
//! application itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::*;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_ir::Protocol;

/// A server that sends a greeting, then waits for each request of the script and sends its
/// response.
async fn scripted(greeting: &'static [u8], script: &'static [(&[u8], &[u8])]) -> Proxies {
    Proxies::serving(Protocol::Detect, move |mut stream| async move {
        stream.write_all(greeting).await.unwrap();
        for (question, answer) in script {
            let mut asked = vec![0; question.len()];
            if stream.read_exact(&mut asked).await.is_err() {
                return;
            }
            assert_eq!(asked, *question);
            stream.write_all(answer).await.unwrap();
        }
    })
    .await
}

async fn expect_bytes(stream: &mut TcpStream, expected: &[u8]) {
    let mut received = vec![0; expected.len()];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut received));
    read.await.expect("in time").unwrap();
    assert_eq!(received, expected);
}

/// Plays the client's side of a script to its end.
async fn play_client(proxies: &Proxies, greeting: &[u8], script: &[(&[u8], &[u8])]) {
    let mut stream = proxies.connect().await;
    expect_bytes(&mut stream, greeting).await;
    for (question, answer) in script {
        stream.write_all(question).await.unwrap();
        expect_bytes(&mut stream, answer).await;
    }
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    drop(stream);
    proxies.encrypted();
    counted(proxies).await;
}

/// Waits for the connection to be counted, which happens when it ends.
async fn counted(proxies: &Proxies) {
    for _ in 0..400 {
        let metrics = proxies.client.metrics();
        let line = |line: &str| {
            line.starts_with("weft_opaque_connections_total")
                && line.contains(r#"backend_name="reviews",backend_port="80",result="ok""#)
        };
        if metrics.lines().any(line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{}", proxies.client.metrics());
}

#[tokio::test]
async fn redis_is_proxied_as_opaque_tcp() {
    // RESP, with several commands in one write, and inline commands, which look a little like HTTP.
    const SCRIPT: &[(&[u8], &[u8])] = &[
        (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"),
        (
            b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n",
            b"$1\r\n1\r\n$-1\r\n",
        ),
    ];
    const WORDS: &[(&[u8], &[u8])] = &[
        (b"GET key\r\n", b"$5\r\nvalue\r\n"),
        (b"PING\r\n", b"+PONG\r\n"),
    ];
    for script in [SCRIPT, WORDS] {
        play_client(&scripted(b"", script).await, b"", script).await;
    }
}

#[tokio::test]
async fn postgresql_is_proxied_after_refused_ssl_request() {
    // SSLRequest, declined with one byte; StartupMessage; AuthenticationOk, ReadyForQuery; a query.
    const SCRIPT: &[(&[u8], &[u8])] = &[
        (b"\0\0\0\x08\x04\xd2\x16\x2f", b"N"),
        (
            b"\0\0\0\x11\0\x03\0\0user\0app\0\0",
            b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I",
        ),
        (b"Q\0\0\0\rSELECT 1\0", b"C\0\0\0\rSELECT 1\0Z\0\0\0\x05I"),
    ];
    play_client(&scripted(b"", SCRIPT).await, b"", SCRIPT).await;
}

const MYSQL_GREETING: &[u8] =
    b"\x1f\0\0\0\x0a8.4.0\0\x01\0\0\0abcdefgh\0\xff\xf7\xff\x02\0\xff\xdf\x15";

#[tokio::test]
async fn mysql_server_greeting_is_proxied() {
    const SCRIPT: &[(&[u8], &[u8])] = &[
        (
            b"\x05\0\0\x01\x85\xa6\xff\x19\0",
            b"\x07\0\0\x02\0\0\0\x02\0\0\0",
        ),
        (b"\x01\0\0\0\x0e", b"\x07\0\0\x01\0\0\0\x02\0\0\0"),
    ];
    let proxies = scripted(MYSQL_GREETING, SCRIPT).await;
    play_client(&proxies, MYSQL_GREETING, SCRIPT).await;
}

#[tokio::test]
async fn smtp_server_greeting_is_proxied() {
    const GREETING: &[u8] = b"220 mail.example ESMTP\r\n";
    const SCRIPT: &[(&[u8], &[u8])] = &[
        (
            b"EHLO client\r\n",
            b"250-mail.example\r\n250 PIPELINING\r\n",
        ),
        (
            b"MAIL FROM:<a@example>\r\nRCPT TO:<b@example>\r\nDATA\r\n",
            b"250 ok\r\n250 ok\r\n354 go\r\n",
        ),
        (b"Subject: hi\r\n\r\nhello\r\n.\r\n", b"250 queued\r\n"),
        (b"QUIT\r\n", b"221 bye\r\n"),
    ];
    let proxies = scripted(GREETING, SCRIPT).await;
    play_client(&proxies, GREETING, SCRIPT).await;
}

#[tokio::test]
async fn server_greeting_arrives_within_20_ms() {
    let proxies = scripted(MYSQL_GREETING, &[]).await;
    let mut waited = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        let mut stream = proxies.connect().await;
        expect_bytes(&mut stream, MYSQL_GREETING).await;
        waited.push(begun.elapsed());
    }
    // Other load only adds delay, so the minimum is what the proxies themselves wait.
    waited.sort();
    assert!(waited[0] < Duration::from_millis(20), "{waited:?}");
}

/// TLS between an application and its client, with a certificate that the mesh does not know.
fn own_tls() -> (TlsAcceptor, TlsConnector) {
    let made = rcgen::generate_simple_self_signed(["db.example".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server).into(), Arc::new(client).into())
}

#[tokio::test]
async fn application_tls_passes_inside_mutual_tls() {
    for protocol in [Protocol::Detect, Protocol::Tls] {
        let (acceptor, connector) = own_tls();
        let proxies = Proxies::serving(protocol, move |stream| {
            let acceptor = acceptor.clone();
            async move {
                let mut tls = acceptor.accept(stream).await.unwrap();
                let mut said = [0; 4];
                tls.read_exact(&mut said).await.unwrap();
                tls.write_all(&said).await.unwrap();
                tls.shutdown().await.unwrap();
            }
        })
        .await;
        let name = ServerName::try_from("db.example").unwrap();
        // The client trusts the application's certificate alone, so no proxy can have terminated
        // TLS.
        let stream = proxies.connect().await;
        let mut tls = connector.connect(name, stream).await.unwrap();
        tls.write_all(b"mine").await.unwrap();
        let mut back = Vec::new();
        tls.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"mine", "{protocol:?}");
        drop(tls);
        proxies.encrypted();
        counted(&proxies).await;
    }
}

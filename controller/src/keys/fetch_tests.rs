//! Against a server of TLS on loopback, which only tests may be sent to.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Serves one connection with the answer; returns its port, and the CA in PEM.
async fn server(answer: Vec<u8>) -> (u16, String) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = key.cert.pem();
    let der = key.signing_key.serialize_der();
    let private = rustls_pki_types::PrivatePkcs8KeyDer::from(der);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private.into())
        .unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        let (stream, _) = socket.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(stream).await else {
            return;
        };
        let mut head = [0; 1024];
        let length = stream.read(&mut head).await.unwrap_or_default();
        let head = String::from_utf8_lossy(&head[..length]).into_owned();
        // As the Kubernetes API server does, which has this media type alone.
        let answer = match head.contains("application/jwk-set+json") {
            true => answer,
            false => b"HTTP/1.1 406 Not Acceptable\r\ncontent-length: 0\r\n\r\n".to_vec(),
        };
        let _ = stream.write_all(&answer).await;
        let _ = stream.shutdown().await;
    });
    (port, pem)
}

fn answer(code: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {code}\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
}

fn source(uri: String, ca: Option<String>) -> KeySource {
    KeySource { uri, ca }
}

#[tokio::test]
async fn answers_are_classed_and_bounded() {
    let redirect = b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n";
    for (said, expected) in [
        (
            answer("200 OK", "{\"keys\":[]}"),
            Ok("{\"keys\":[]}".to_owned()),
        ),
        (answer("404 Not Found", "secret"), Err(FetchError::Answer)),
        (redirect.to_vec(), Err(FetchError::Answer)),
        (
            answer("200 OK", &"a".repeat(MAX_BODY + 1)),
            Err(FetchError::Body),
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort".to_vec(),
            Err(FetchError::Body),
        ),
        (b"no HTTP".to_vec(), Err(FetchError::Answer)),
    ] {
        let (port, ca) = server(said).await;
        let source = source(format!("https://localhost:{port}/keys?a=b"), Some(ca));
        assert_eq!(attempt(&source, |_| true).await, expected);
    }
}

#[tokio::test]
async fn servers_are_verified_and_addresses_checked() {
    let (port, ca) = server(answer("200 OK", "")).await;
    let uri = format!("https://localhost:{port}/");
    let of = |ca| source(uri.clone(), ca);
    let denied = fetch(&of(Some(ca.clone())), &[]).await;
    assert_eq!(denied, Err(FetchError::Address));
    assert_eq!(attempt(&of(None), |_| true).await, Err(FetchError::Tls));
    for uri in [
        "http://localhost/",
        "https://me@localhost/",
        "https:///",
        "x",
    ] {
        let found = attempt(&source(uri.to_owned(), None), |_| true).await;
        assert_eq!(found, Err(FetchError::Uri), "{uri}");
    }
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let source = source(format!("https://{free}/"), Some(ca));
    assert_eq!(attempt(&source, |_| true).await, Err(FetchError::Connect));
}

/// A server that says nothing.
#[tokio::test(start_paused = true)]
async fn silent_server_times_out() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let source = source(format!("https://{address}/"), None);
    let found = timeout(TIMEOUT, attempt(&source, |_| true)).await;
    assert!(found.is_err());
}

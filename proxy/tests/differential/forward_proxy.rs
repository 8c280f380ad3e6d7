//! Requests for a forward proxy that runs in the mesh reach it unchanged.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_ir::Protocol;

use super::support::{ANY, Proxies, Version, head};
use super::topology::{Front, Kind};

/// Responds to each request head with the same bytes as the body.
async fn echo(mut stream: TcpStream) {
    loop {
        let asked = head(&mut stream).await;
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{asked}",
            asked.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn start() -> std::net::SocketAddr {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    address
}

async fn ask(stream: &mut TcpStream, asked: &str) -> String {
    stream.write_all(asked.as_bytes()).await.unwrap();
    let answer = head(stream).await;
    let length = answer
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    String::from_utf8(body).unwrap()
}

#[tokio::test]
async fn forward_proxy_requests_pass_unchanged() {
    for kind in [Kind::Outbound, Kind::Inbound, Kind::Pair] {
        let front = Front::start(kind, Version::Http1, Version::Http1, start().await);
        for asked in [
            "GET http://other.example:8080/a?b HTTP/1.1\r\nHost: other.example\r\nProxy-Connection: keep-alive\r\n\r\n",
            "CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n",
        ] {
            let mut stream = TcpStream::connect(front.address).await.unwrap();
            assert_eq!(ask(&mut stream, asked).await, asked, "{kind:?}");
            let then = "\x16\x03 any bytes\r\n\r\n";
            assert_eq!(ask(&mut stream, then).await, then, "{kind:?}");
        }
    }
}

#[tokio::test]
async fn absolute_target_becomes_origin_form_on_http_port() {
    let proxies = Proxies::before(start().await, Protocol::Http1);
    let mut stream = proxies.connect().await;
    let asked = "GET http://other.example:8080/a?b HTTP/1.1\r\nHost: reviews\r\n\r\n";
    let seen = ask(&mut stream, asked).await.to_lowercase();
    assert_eq!(
        seen,
        "get /a?b http/1.1\r\nhost: other.example:8080\r\n\r\n"
    );
    stream
        .write_all(b"CONNECT other.example:443 HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 501"), "{answer}");
    assert!(answer.contains("CONNECT is not proxied"), "{answer}");
}

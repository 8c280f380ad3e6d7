//! Request smuggling: messages that two parsers could read differently are refused, or forwarded in
//! an unambiguous form.
//!
//! The application parses heads byte by byte. Each case hides a request for `/smuggled`, which must
//! never arrive.

mod answers;
mod http1;
mod http2;
mod servers;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::support::{ANY, Version};
use super::topology::{Front, Kind};
use super::wire::{Head, Wire};

const LIMIT: Duration = Duration::from_secs(5);
const PROXIES: [Kind; 4] = [Kind::Outbound, Kind::Inbound, Kind::Pair, Kind::Gateway];

/// The heads that arrived.
type Heads = Arc<Mutex<Vec<String>>>;

/// An HTTP/1.1 application with a strict parser that responds with `answer`, and records the first
/// line of each request, or the error.
async fn application(answer: &'static [u8]) -> (SocketAddr, Heads) {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Heads::default();
    let noted = heads.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let noted = noted.clone();
            tokio::spawn(async move {
                let mut wire = Wire::new(stream);
                while let Ok(Some(head)) = wire.head().await {
                    let mut body = Vec::new();
                    let read = wire
                        .body(&head, super::message::Framing::Absent, &mut body)
                        .await;
                    noted.lock().unwrap().push(describe(&head, read.err()));
                    if wire.send(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, heads)
}

fn describe(head: &Head, error: Option<std::io::Error>) -> String {
    match (&head.problem, error) {
        (None, None) => head.line.clone(),
        (Some(problem), _) => format!("bad: {problem}"),
        (None, Some(error)) => format!("bad: {error}"),
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx-app: 1\r\n\r\nok\n";

/// 33 bytes that are a request of their own.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nhost:\r\n\r\n";

/// Sends bytes; returns all that is received until the connection closes, or a timeout.
async fn answers(front: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(front).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

//! Requests and answers that two readers could take differently: refused, or passed on so that nobody can.
//!
//! The application counts heads byte by byte. A request for `/smuggled` is hidden in each case; it must never be seen.

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
use super::ways::{Front, Kind};
use super::wire::{Head, Wire};

const LIMIT: Duration = Duration::from_secs(5);
const PROXIES: [Kind; 4] = [Kind::Outbound, Kind::Inbound, Kind::Pair, Kind::Gateway];

/// What arrived, head by head.
type Heads = Arc<Mutex<Vec<String>>>;

/// An application of HTTP/1.1 that reads strictly, answers each request with `answer`, and notes the first line, or what
/// is wrong.
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
                    noted.lock().unwrap().push(note(&head, read.err()));
                    if wire.send(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, heads)
}

fn note(head: &Head, error: Option<std::io::Error>) -> String {
    match (&head.problem, error) {
        (None, None) => head.line.clone(),
        (Some(problem), _) => format!("bad: {problem}"),
        (None, Some(error)) => format!("bad: {error}"),
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nx-app: 1\r\n\r\nok\n";

/// 33 bytes that are a request by themselves.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nhost:\r\n\r\n";

/// Everything that comes until the connection ends, or is silent after an answer.
async fn answers(front: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(front).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

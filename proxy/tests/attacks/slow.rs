//! A thousand clients that deliberately send or read slowly.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::ports::{self, HELD, LONG};
use super::support::*;
use super::witness::{Comparison, Control};
use super::{alone, soaks};

const CLIENTS: usize = 1_000;
/// Attempts in which others may be delayed, as they may by other load on the machine.
const MAX_ATTEMPTS: u32 = 3;
/// The interval between the starts of two clients.
const START_INTERVAL: Duration = Duration::from_millis(3);
/// The interval between two pieces that a client sends.
const PAUSE: Duration = Duration::from_secs(1);
/// The client's receive buffer, which bounds what the kernel accepts of an unread response.
const RECEIVE_BUFFER: u32 = 4 << 10;
/// Memory per client, including its own side and the application's.
const MEMORY_PER_CLIENT: u64 = 128 << 10;

/// How a client is slow.
struct Slow {
    name: &'static str,
    head: &'static str,
    path: &'static str,
    /// The piece that it sends repeatedly.
    more: &'static [u8],
}

const KINDS: [Slow; 3] = [
    Slow {
        name: "endless request heads",
        head: "GET {} HTTP/1.1\r\nhost: shop.example\r\n",
        path: "/",
        more: b"x-more: x\r\n",
    },
    Slow {
        name: "endless request bodies",
        head: "POST {} HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 100000\r\n\r\n",
        path: HELD,
        more: b"x",
    },
    Slow {
        name: "unread responses",
        head: "GET {} HTTP/1.1\r\nhost: shop.example\r\n\r\n",
        path: LONG,
        more: b"",
    },
];

/// Runs one client; reports once it has sent its first bytes.
async fn client(
    address: SocketAddr,
    slow: &'static Slow,
    time: Duration,
    started: mpsc::Sender<()>,
) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let head = slow.head.replace("{}", slow.path);
    stream.write_all(head.as_bytes()).await.unwrap();
    started.send(()).await.unwrap();
    drop(started);
    let until = Instant::now() + time;
    while Instant::now() < until {
        sleep(PAUSE).await;
        stream
            .write_all(slow.more)
            .await
            .expect("an open connection");
    }
}

/// Waits until every client has started.
async fn all_started(mut started: mpsc::Receiver<()>) {
    for count in 0..CLIENTS {
        assert!(
            started.recv().await.is_some(),
            "only {count} clients have started"
        );
    }
}

/// Runs the clients on their own thread, each for `time` after its start.
fn start(
    address: SocketAddr,
    slow: &'static Slow,
    time: Duration,
) -> (mpsc::Receiver<()>, std::thread::JoinHandle<()>) {
    let (started, all_have_started) = mpsc::channel(CLIENTS);
    let clients = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let mut clients = JoinSet::new();
            for _ in 0..CLIENTS {
                clients.spawn(client(address, slow, time, started.clone()));
                sleep(START_INTERVAL).await;
            }
            drop(started);
            clients.join_all().await;
        });
    });
    (all_have_started, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_do_not_affect_other_clients() {
    let _alone = alone().await;
    let time = Duration::from_secs(if soaks() { 30 } else { 2 });
    let control = Control::start();
    let app = ports::application(Version::Http1).await;
    let mut fair = None;
    for (slow, attempt) in KINDS
        .iter()
        .flat_map(|slow| (1..=MAX_ATTEMPTS).map(move |attempt| (slow, attempt)))
    {
        if fair == Some(slow.name) {
            continue;
        }
        // A new port for each kind, so that remains of one do not affect the next.
        let port = ports::gateway_http(app);
        let name = slow.name;
        Comparison::during(port.address, &control, sleep(time / 8)).await;
        let (quiet, ()) = Comparison::during(port.address, &control, sleep(time / 4)).await;
        let (started, clients) = start(port.address, slow, time);
        let (opening, ()) = Comparison::during(port.address, &control, all_started(started)).await;
        println!("{name}, while clients start: {opening}");
        let joined = tokio::task::spawn_blocking(|| clients.join());
        let (seen, joined) = Comparison::during(port.address, &control, joined).await;
        println!("{name}: {seen}");
        assert!(joined.unwrap().is_ok(), "{name}: a client was closed");
        let is_fair = seen.is_fair(&quiet.attacked);
        assert!(
            is_fair || attempt < MAX_ATTEMPTS,
            "{name}: other clients are delayed: {seen}, without attack: {quiet}"
        );
        fair = is_fair.then_some(name);
        let grown = seen.attacked.peak.saturating_sub(opening.attacked.before);
        assert!(
            grown <= MEMORY_PER_CLIENT * CLIENTS as u64,
            "{name}: {} KiB more",
            grown >> 10
        );
    }
}

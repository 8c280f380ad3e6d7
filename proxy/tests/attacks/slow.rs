//! A thousand clients that are slow on purpose, in what they send or in what they read.

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
/// On a machine that does something else as well, one may find others waiting for that.
const TRIES: u32 = 3;
/// Between the first of one and of the next.
const STEP: Duration = Duration::from_millis(3);
/// Between two pieces of what a client sends.
const PAUSE: Duration = Duration::from_secs(1);
/// What a client's kernel takes of an answer that is not read.
const RECEIVE_BUFFER: u32 = 4 << 10;
/// What each of them may cost: here are its own side, the proxy's and the application's.
const EACH: u64 = 128 << 10;

/// How a client is slow.
struct Slow {
    name: &'static str,
    head: &'static str,
    path: &'static str,
    /// What it goes on with, a piece at a time.
    more: &'static [u8],
}

const KINDS: [Slow; 3] = [
    Slow {
        name: "heads that do not end",
        head: "GET {} HTTP/1.1\r\nhost: shop.example\r\n",
        path: "/",
        more: b"x-more: x\r\n",
    },
    Slow {
        name: "bodies that do not end",
        head: "POST {} HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 100000\r\n\r\n",
        path: HELD,
        more: b"x",
    },
    Slow {
        name: "answers that are not read",
        head: "GET {} HTTP/1.1\r\nhost: shop.example\r\n\r\n",
        path: LONG,
        more: b"",
    },
];

/// One client; says so once it has begun.
async fn client(address: SocketAddr, slow: &'static Slow, time: Duration, begun: mpsc::Sender<()>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let head = slow.head.replace("{}", slow.path);
    stream.write_all(head.as_bytes()).await.unwrap();
    begun.send(()).await.unwrap();
    drop(begun);
    let until = Instant::now() + time;
    while Instant::now() < until {
        sleep(PAUSE).await;
        stream
            .write_all(slow.more)
            .await
            .expect("an open connection");
    }
}

/// Waits until each has begun.
async fn all_have(mut begun: mpsc::Receiver<()>) {
    for count in 0..CLIENTS {
        assert!(
            begun.recv().await.is_some(),
            "{count} clients have begun, and no more"
        );
    }
}

/// The clients on a thread of their own, for some time after they have begun.
fn start(
    address: SocketAddr,
    slow: &'static Slow,
    time: Duration,
) -> (mpsc::Receiver<()>, std::thread::JoinHandle<()>) {
    let (begun, all_begun) = mpsc::channel(CLIENTS);
    let clients = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let mut clients = JoinSet::new();
            for _ in 0..CLIENTS {
                clients.spawn(client(address, slow, time, begun.clone()));
                sleep(STEP).await;
            }
            drop(begun);
            clients.join_all().await;
        });
    });
    (all_begun, clients)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_do_not_affect_other_clients() {
    let _alone = alone().await;
    let time = Duration::from_secs(if soaks() { 30 } else { 2 });
    let control = Control::start();
    let app = ports::application(Version::Http1).await;
    let mut fair = None;
    for (slow, turn) in KINDS
        .iter()
        .flat_map(|slow| (1..=TRIES).map(move |turn| (slow, turn)))
    {
        if fair == Some(slow.name) {
            continue;
        }
        // A port of its own for each: what is left of one kind is no matter of the next.
        let port = ports::gateway_http(app);
        let name = slow.name;
        Comparison::during(port.address, &control, sleep(time / 8)).await;
        let (quiet, ()) = Comparison::during(port.address, &control, sleep(time / 4)).await;
        let (begun, clients) = start(port.address, slow, time);
        let (opening, ()) = Comparison::during(port.address, &control, all_have(begun)).await;
        println!("{name}, while they begin: {opening}");
        let joined = tokio::task::spawn_blocking(|| clients.join());
        let (seen, joined) = Comparison::during(port.address, &control, joined).await;
        println!("{name}: {seen}");
        assert!(joined.unwrap().is_ok(), "{name}: a client was closed");
        let is_fair = seen.is_fair(&quiet.attacked);
        assert!(
            is_fair || turn < TRIES,
            "{name}: others waited: {seen}, in quiet times {quiet}"
        );
        fair = is_fair.then_some(name);
        let grown = seen.attacked.most.saturating_sub(opening.attacked.before);
        assert!(
            grown <= EACH * CLIENTS as u64,
            "{name}: {} KiB more",
            grown >> 10
        );
    }
}

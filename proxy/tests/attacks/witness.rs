//! What others notice of an attack: a client that goes on asking, and the memory of the process.
//!
//! How long requests take says little by itself, on a machine that does other work too. So another proxy, which nobody
//! attacks, is asked at the same time: what both suffer is not the attack's.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::ports::{self, ANSWER};
use super::soaks;
use super::support::*;

/// Between two requests of the other client.
const PAUSE: Duration = Duration::from_millis(1);
/// An answer that takes longer is none.
const LIMIT: Duration = Duration::from_secs(20);
/// What a request may take in any case: little where there is time to measure. Elsewhere a proxy that is not optimized has
/// little left beside an attack, and less by as much as others want the processors.
fn floor() -> Duration {
    if soaks() {
        return Duration::from_millis(50);
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    Duration::from_millis(250).mul_f64((load / cores as f64).max(1.0))
}

/// What was noticed in some time.
#[derive(Debug)]
pub struct Noticed {
    pub p99: Duration,
    pub requests: usize,
    /// Resident bytes at the begin, and the most there were.
    pub before: u64,
    pub most: u64,
}

/// A proxy with threads of its own, which nobody attacks.
pub struct Control {
    pub address: SocketAddr,
    _open: oneshot::Sender<()>,
}

impl Control {
    pub fn start() -> Self {
        let (_open, closed) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let app = ports::application(Version::Http1).await;
                let port = ports::gateway_http(app);
                tell.send(port.address).unwrap();
                let _ = closed.await;
            });
        });
        Self {
            address: told.recv().unwrap(),
            _open,
        }
    }
}

/// A client on a thread of its own, until it is asked for what it noticed.
pub struct Witness {
    enough: Arc<AtomicBool>,
    thread: JoinHandle<Noticed>,
}

impl Witness {
    /// Asks at `address`, over one connection.
    pub fn start(address: SocketAddr, version: Version) -> Self {
        let enough = Arc::<AtomicBool>::default();
        let told = enough.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(ask(address, version, &told))
        });
        Self { enough, thread }
    }

    /// Errors: a request was not answered as it should be.
    pub async fn noticed(self) -> Noticed {
        self.enough.store(true, Relaxed);
        let joined = tokio::task::spawn_blocking(|| self.thread.join())
            .await
            .unwrap();
        joined.unwrap_or_else(|_| panic!("another client was not served"))
    }
}

async fn ask(address: SocketAddr, version: Version, enough: &AtomicBool) -> Noticed {
    let before = resident();
    let (mut taken, mut most) = (Vec::new(), before);
    let mut client = timeout(LIMIT, Client::connect(address, version))
        .await
        .unwrap();
    while !enough.load(Relaxed) || taken.is_empty() {
        let begun = Instant::now();
        let request = http::Request::get("/").header("host", "shop.example");
        let seen = timeout(LIMIT, client.send(request, ""))
            .await
            .expect("an answer in time");
        taken.push(begun.elapsed());
        let body = seen.body.escape_ascii();
        assert!(
            seen.status == 200 && seen.body == ANSWER,
            "{} {:?} {body}",
            seen.status,
            seen.headers
        );
        most = most.max(resident());
        tokio::time::sleep(PAUSE).await;
    }
    taken.sort_unstable();
    Noticed {
        p99: taken[taken.len() * 99 / 100],
        requests: taken.len(),
        before,
        most,
    }
}

/// What an attack may cost others, and did.
pub struct Comparison {
    pub attacked: Noticed,
    /// Of the proxy that nobody attacked, meanwhile.
    pub control: Noticed,
}

impl Comparison {
    /// Of the time that `attack` takes.
    pub async fn during<T>(
        address: SocketAddr,
        control: &Control,
        attack: impl Future<Output = T>,
    ) -> (Self, T) {
        let attacked = Witness::start(address, Version::Http2);
        let control = Witness::start(control.address, Version::Http2);
        let done = attack.await;
        let (attacked, control) = (attacked.noticed().await, control.noticed().await);
        (Self { attacked, control }, done)
    }

    /// Whether the 99th percentile is at most twice that of quiet times, or of the other proxy.
    pub fn is_fair(&self, quiet: &Noticed) -> bool {
        let bound = (quiet.p99.max(self.control.p99) * 2).max(floor());
        self.attacked.p99 <= bound
    }

    /// How much the memory grew.
    pub fn grown(&self) -> u64 {
        self.attacked.most.saturating_sub(self.attacked.before)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attacked, control } = self;
        let (p99, count, quiet) = (attacked.p99, attacked.requests, control.p99);
        let grown = self.grown() >> 10;
        write!(
            f,
            "p99 {p99:.1?} of {count} requests, elsewhere {quiet:.1?}; {grown} KiB more"
        )
    }
}

/// Resident bytes of this process: the proxy, and its clients and applications too.
pub fn resident() -> u64 {
    weft_process::resident_bytes().unwrap()
}

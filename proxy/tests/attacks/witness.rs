//! The effect of an attack on others: the latency of another client, and the process's memory.
//!
//! Latency alone says little on a machine with other load. So a second proxy, which is not
//! attacked, is measured at the same time as a control.

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

/// The interval between two requests of the other client.
const PAUSE: Duration = Duration::from_millis(1);
/// The timeout of a response.
const LIMIT: Duration = Duration::from_secs(20);
/// The latency that is always acceptable: low in a soak, where there is time to measure. Otherwise
/// a debug build has little capacity left beside an attack, and less the more the machine is
/// loaded.
fn minimum_bound() -> Duration {
    if soaks() {
        return Duration::from_millis(50);
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let load: f64 = load.split(' ').next().unwrap().parse().unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    Duration::from_millis(250).mul_f64((load / cores as f64).max(1.0))
}

/// Measurements over a period.
#[derive(Debug)]
pub struct Noticed {
    pub p99: Duration,
    pub requests: usize,
    /// Resident bytes at the start, and the maximum.
    pub before: u64,
    pub peak: u64,
}

/// A proxy with its own threads, which is not attacked.
pub struct Control {
    pub address: SocketAddr,
    _open: oneshot::Sender<()>,
}

impl Control {
    pub fn start() -> Self {
        let (_open, closed) = oneshot::channel();
        let (tell, address) = std::sync::mpsc::channel();
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
            address: address.recv().unwrap(),
            _open,
        }
    }
}

/// A client on its own thread that measures until it is stopped.
pub struct Witness {
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<Noticed>,
}

impl Witness {
    /// Sends requests to `address` over one connection.
    pub fn start(address: SocketAddr, version: Version) -> Self {
        let stopped = Arc::<AtomicBool>::default();
        let stop = stopped.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(ask(address, version, &stop))
        });
        Self { stopped, thread }
    }

    /// Stops the client; returns its measurements. Panics if a request was not answered as
    /// expected.
    pub async fn noticed(self) -> Noticed {
        self.stopped.store(true, Relaxed);
        let joined = tokio::task::spawn_blocking(|| self.thread.join())
            .await
            .unwrap();
        joined.unwrap_or_else(|_| panic!("another client was not served"))
    }
}

async fn ask(address: SocketAddr, version: Version, stopped: &AtomicBool) -> Noticed {
    let before = resident();
    let (mut taken, mut peak) = (Vec::new(), before);
    let mut client = timeout(LIMIT, Client::connect(address, version))
        .await
        .unwrap();
    while !stopped.load(Relaxed) || taken.is_empty() {
        let begun = Instant::now();
        let request = http::Request::get("/").header("host", "shop.example");
        let seen = timeout(LIMIT, client.send(request, ""))
            .await
            .expect("a response in time");
        taken.push(begun.elapsed());
        let body = seen.body.escape_ascii();
        assert!(
            seen.status == 200 && seen.body == ANSWER,
            "{} {:?} {body}",
            seen.status,
            seen.headers
        );
        peak = peak.max(resident());
        tokio::time::sleep(PAUSE).await;
    }
    taken.sort_unstable();
    Noticed {
        p99: taken[taken.len() * 99 / 100],
        requests: taken.len(),
        before,
        peak,
    }
}

/// Measurements of the attacked proxy beside those of the control.
pub struct Comparison {
    pub attacked: Noticed,
    /// The proxy that was not attacked, in the same period.
    pub control: Noticed,
}

impl Comparison {
    /// Measures while `attack` runs.
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

    /// Returns true if the 99th percentile is at most twice that without attack, or that of the
    /// control.
    pub fn is_fair(&self, quiet: &Noticed) -> bool {
        let bound = (quiet.p99.max(self.control.p99) * 2).max(minimum_bound());
        self.attacked.p99 <= bound
    }

    /// Returns the growth of memory in bytes.
    pub fn grown(&self) -> u64 {
        self.attacked.peak.saturating_sub(self.attacked.before)
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

/// Resident bytes of this process, which includes the clients and applications.
pub fn resident() -> u64 {
    weft_process::resident_bytes().unwrap()
}

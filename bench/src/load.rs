//! The client: HTTP/1.1 requests over a number of connections, as fast as possible or at a fixed
//! rate.
//!
//! At a fixed rate, latency is measured from the time the request was due, so that requests delayed
//! by a slow response count in full (no coordinated omission). `--seconds` limits the run.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    target: SocketAddr,
    #[arg(long)]
    connections: u32,
    #[arg(long)]
    seconds: u64,
    /// Requests per second over all connections; without it, as many as possible.
    #[arg(long)]
    rate: Option<u32>,
}

/// The result of a run. Latencies are in microseconds, 0 without responses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let begin = Instant::now();
    let end = begin + Duration::from_secs(options.seconds);
    let connections: Vec<_> = (0..options.connections)
        .map(|place| {
            let pace = options
                .rate
                .map(|rate| Pace::of(begin, rate, options.connections, place));
            tokio::spawn(connection(options.target, pace, end))
        })
        .collect();
    let (mut latencies, mut failed) = (Vec::new(), 0);
    for connection in connections {
        let (mut seen, errors) = connection.await.context("a connection's task panicked")?;
        latencies.append(&mut seen);
        failed += errors;
    }
    let seconds = begin.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let outcome = Outcome {
        answered: latencies.len() as u64,
        failed,
        seconds,
        p50: quantile(&latencies, 0.50),
        p99: quantile(&latencies, 0.99),
    };
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

fn quantile(sorted: &[u32], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share) as usize;
    let nanos = sorted.get(place).or(sorted.last()).copied();
    f64::from(nanos.unwrap_or(0)) / 1000.0
}

/// The schedule of one connection's requests: evenly spaced, and staggered between connections.
struct Pace {
    next: Instant,
    step: Duration,
}

impl Pace {
    fn of(begin: Instant, rate: u32, connections: u32, place: u32) -> Self {
        let step = Duration::from_secs_f64(f64::from(connections) / f64::from(rate.max(1)));
        Self {
            next: begin + step * place / connections.max(1),
            step,
        }
    }

    /// Returns the start time of the next request. The timer has a resolution of milliseconds; a
    /// delay of that size is not the proxy's. A request that was delayed longer, by the one before
    /// it, counts from when it was due.
    async fn due(&mut self) -> Instant {
        let due = self.next;
        self.next += self.step;
        tokio::time::sleep_until(due).await;
        let now = Instant::now();
        if now.duration_since(due) < Duration::from_millis(3) {
            now
        } else {
            due
        }
    }
}

/// Returns latencies in nanoseconds and the number of failed requests; reconnects after failures.
async fn connection(target: SocketAddr, mut pace: Option<Pace>, end: Instant) -> (Vec<u32>, u64) {
    let request =
        format!("GET / HTTP/1.1\r\nhost: {target}\r\nuser-agent: bench\r\naccept: */*\r\n\r\n");
    let (mut latencies, mut failed) = (Vec::with_capacity(64 * 1024), 0);
    let mut stream = None;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let begun = match &mut pace {
            Some(pace) => pace.due().await,
            None => Instant::now(),
        };
        if begun >= end {
            return (latencies, failed);
        }
        match exchange(&mut stream, target, request.as_bytes(), &mut buffer).await {
            Ok(()) => latencies.push(u32::try_from(begun.elapsed().as_nanos()).unwrap_or(u32::MAX)),
            Err(_) => {
                stream = None;
                failed += 1;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

async fn exchange(
    stream: &mut Option<TcpStream>,
    target: SocketAddr,
    request: &[u8],
    buffer: &mut [u8],
) -> anyhow::Result<()> {
    if stream.is_none() {
        let opened = TcpStream::connect(target).await?;
        opened.set_nodelay(true)?;
        *stream = Some(opened);
    }
    let Some(stream) = stream else {
        anyhow::bail!("no connection")
    };
    stream.write_all(request).await?;
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        anyhow::ensure!(
            read > 0,
            "the connection was closed before the end of the response"
        );
        filled += read;
        if response_length(&buffer[..filled])?.is_some_and(|whole| filled >= whole) {
            return Ok(());
        }
    }
}

/// Returns the length of head and body once the head is complete. Fails unless the status is 200.
fn response_length(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..end])?;
    anyhow::ensure!(
        head.starts_with("HTTP/1.1 200"),
        "not 200: {}",
        head.lines().next().unwrap_or_default()
    );
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    Ok(Some(
        end + 4 + length.context("the response has no content-length")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_length_is_computed_from_the_head() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(response_length(head).unwrap(), Some(head.len() + 5));
        assert_eq!(response_length(&head[..20]).unwrap(), None);
        assert!(response_length(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").is_err());
    }

    #[test]
    fn quantiles_of_sorted_latencies() {
        let nanos: Vec<u32> = (1..=100).map(|n| n * 1000).collect();
        assert_eq!(quantile(&nanos, 0.5), 51.0);
        assert_eq!(quantile(&nanos, 0.99), 100.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}

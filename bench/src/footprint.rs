//! Measurements of `bench/footprint` that a shell script cannot make: open connections, and the
//! time until a route edit takes effect.
//!
//! They run on the node. The parts that stand for a pod's application run in the pod's network
//! namespace, so that their connections are redirected to its sidecar.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;

/// The response header that identifies an edit.
const EDIT: &str = "x-edit";
/// An edit fails if it has not taken effect by then.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(crate) struct HoldOptions {
    #[arg(long)]
    target: SocketAddr,
    #[arg(long)]
    connections: u32,
    /// Hold the connections for this long after the last one is open.
    #[arg(long)]
    seconds: u64,
    /// Send this once on each connection and wait for a response. `\\r\\n` stands for the end of a
    /// line.
    #[arg(long)]
    send: String,
}

/// Opens the connections, prints `open`, and keeps them open. Fails if a connection gets no
/// response.
pub(crate) async fn hold(options: HoldOptions) -> anyhow::Result<()> {
    let text = options.send.replace("\\r\\n", "\r\n");
    let mut held = Vec::new();
    for _ in 0..options.connections {
        let mut stream = TcpStream::connect(options.target).await?;
        stream.set_nodelay(true)?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await??;
        anyhow::ensure!(read > 0, "the connection was closed without a response");
        held.push(stream);
    }
    println!("open");
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    drop(held);
    Ok(())
}

#[derive(clap::Args)]
pub(crate) struct SeeOptions {
    #[arg(long)]
    target: SocketAddr,
    /// The Host header.
    #[arg(long, default_value = "bench")]
    host: String,
}

/// Sends a request every millisecond on one connection, and prints the value of `x-edit` whenever
/// it changes. Runs until killed.
pub(crate) async fn see(options: SeeOptions) -> anyhow::Result<()> {
    let request = format!("GET /reviews/1 HTTP/1.1\r\nhost: {}\r\n\r\n", options.host);
    let mut stream = BufReader::new(TcpStream::connect(options.target).await?);
    stream.get_ref().set_nodelay(true)?;
    let mut before = None;
    loop {
        stream.get_mut().write_all(request.as_bytes()).await?;
        let now = answer(&mut stream).await?;
        if before.as_ref() != Some(&now) {
            println!("{now}");
            before = Some(now);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Reads one response; returns the value of its `x-edit` header, empty if absent.
async fn answer(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    let (mut edit, mut length, mut line) = (String::new(), None, String::new());
    loop {
        line.clear();
        anyhow::ensure!(stream.read_line(&mut line).await? > 0, "closed");
        let Some((name, value)) = line.split_once(':') else {
            if line.trim().is_empty() {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            EDIT => edit = value.trim().to_owned(),
            "content-length" => length = value.trim().parse::<usize>().ok(),
            _ => {}
        }
    }
    let mut body = vec![0; length.context("the response has no content-length")?];
    stream.read_exact(&mut body).await?;
    Ok(edit)
}

#[derive(clap::Args)]
pub(crate) struct EditOptions {
    /// The process in whose network namespace requests are sent.
    #[arg(long)]
    pid: u32,
    /// The Service's address.
    #[arg(long)]
    target: SocketAddr,
    /// The address of `kubectl proxy`.
    #[arg(long)]
    api: SocketAddr,
    /// The route, as an API path.
    #[arg(long)]
    route: String,
    #[arg(long, default_value_t = 20)]
    edits: u32,
}

/// Edits the route, each edit after the previous one took effect, and prints median and p99 as
/// `MEDIAN P99 WRITTEN` in milliseconds: the time from the request to the API server to the first
/// response by the new rule, and the share of the median that is the API server's own response
/// time.
pub(crate) async fn edit(options: EditOptions) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let mut seeing = Command::new("nsenter")
        .args(["-t", &options.pid.to_string(), "-n"])
        .arg(own)
        .args(["see", "--target", &options.target.to_string()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting nsenter")?;
    let seen = seeing.stdout.take().context("nsenter has no output")?;
    let mut seen = BufReader::new(seen).lines();
    let first = tokio::time::timeout(PATIENCE, seen.next_line()).await??;
    first.context("no response before the first edit")?;
    let (mut obeyed, mut written) = (Vec::new(), Vec::new());
    let run = format!("{}-{:x}", std::process::id(), rand_word());
    for number in 0..options.edits {
        let wanted = format!("{run}-{number}");
        let begin = Instant::now();
        patch(&options, &wanted).await?;
        written.push(begin.elapsed());
        loop {
            let line = tokio::time::timeout(PATIENCE, seen.next_line()).await;
            let line = line.with_context(|| format!("edit {number} did not take effect"))??;
            if line.context("the requests ended")? == wanted {
                break;
            }
        }
        obeyed.push(begin.elapsed());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let (median, p99) = (quantile(&mut obeyed, 0.5), quantile(&mut obeyed, 0.99));
    println!("{median:.1} {p99:.1} {:.1}", quantile(&mut written, 0.5));
    Ok(())
}

/// Distinguishes concurrent runs on one machine.
fn rand_word() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::from(since.subsec_nanos()))
}

fn quantile(all: &mut [Duration], share: f64) -> f64 {
    all.sort_unstable();
    let place = ((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1));
    all.get(place).map_or(0.0, |one| one.as_secs_f64() * 1000.0)
}

#[derive(clap::Args)]
pub(crate) struct CreateOptions {
    /// The address of `kubectl proxy`.
    #[arg(long)]
    api: SocketAddr,
    /// The path that the objects are posted to.
    #[arg(long)]
    path: String,
}

/// Concurrent creations.
const AT_ONCE: usize = 16;

/// Creates the objects. `kubectl` is limited to 50 a second.
pub(crate) async fn create(options: CreateOptions) -> anyhow::Result<()> {
    let objects = std::io::read_to_string(std::io::stdin()).context("reading standard input")?;
    let mut under_way = tokio::task::JoinSet::new();
    for object in objects.lines().map(str::to_owned) {
        if under_way.len() >= AT_ONCE
            && let Some(created) = under_way.join_next().await
        {
            created??;
        }
        let (api, path) = (options.api, options.path.clone());
        under_way.spawn(async move { ask(api, "POST", &path, "application/json", &object).await });
    }
    while let Some(created) = under_way.join_next().await {
        created??;
    }
    Ok(())
}

/// Sets the response header of the route's only rule.
async fn patch(options: &EditOptions, value: &str) -> anyhow::Result<()> {
    let body = serde_json::json!([{
        "op": "replace",
        "path": "/spec/rules/0/filters/0/responseHeaderModifier/set/0/value",
        "value": value,
    }])
    .to_string();
    let kind = "application/json-patch+json";
    ask(options.api, "PATCH", &options.route, kind, &body).await
}

/// Sends one request to the API server; fails unless it succeeds.
async fn ask(
    api: SocketAddr,
    method: &str,
    path: &str,
    kind: &str,
    body: &str,
) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(api).await?;
    stream.set_nodelay(true)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {api}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    );
    stream
        .write_all(&[head.as_bytes(), body.as_bytes()].concat())
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    anyhow::ensure!(
        answer.starts_with("HTTP/1.1 20"),
        "{method} {path}: {answer}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantile_of_few_samples_is_one_of_them() {
        let mut all: Vec<_> = (1..=20).rev().map(Duration::from_millis).collect();
        assert_eq!(quantile(&mut all, 0.5), 11.0);
        assert_eq!(quantile(&mut all, 0.99), 20.0);
        assert_eq!(quantile(&mut [], 0.5), 0.0);
    }
}

//! Runs programs on this machine as clients of a gateway: the machine reaches the addresses of
//! Services of type LoadBalancer. `kubectl` is the test cluster's, for the commands that examples
//! tell users to run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::process::Command;

use crate::Summary;

/// The time limit for a program.
const LIMIT: Duration = Duration::from_secs(120);

/// Returns the root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// Returns the path of the sample shop's newest build.
pub fn shop() -> anyhow::Result<String> {
    let built =
        ["release", "debug"].map(|folder| root().join("target").join(folder).join("weft-shop"));
    let age = |file: &PathBuf| {
        std::fs::metadata(file)
            .and_then(|meta| meta.modified())
            .ok()
    };
    let newest = built.into_iter().filter(|file| age(file).is_some());
    let newest = newest.max_by_key(age);
    let newest = newest.context("examples/shop/pack has not been run")?;
    Ok(newest.to_string_lossy().into_owned())
}

/// Sends requests from this machine with `weft-shop load`.
pub async fn load(url: &str, arguments: &[&str]) -> anyhow::Result<Summary> {
    let arguments = [&["load", "--url", url], arguments].concat();
    Summary::last_of(&run(&shop()?, &arguments).await?.success()?)
}

/// Returns an address as written before a port: IPv6 addresses in brackets.
pub fn in_url(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

/// Returns this machine's source address for connections to `towards`.
pub fn own_address(towards: &str) -> anyhow::Result<IpAddr> {
    let towards: IpAddr = towards.parse()?;
    // Nothing is sent: `connect` on a UDP socket only looks up the route.
    let any = match towards {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket
        .connect((towards, 9))
        .with_context(|| format!("no route to {towards}"))?;
    Ok(socket.local_addr()?.ip())
}

/// The output of a program.
#[derive(Debug)]
pub struct Output {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Output {
    /// Returns the standard output; fails unless the exit code was 0.
    pub fn success(self) -> anyhow::Result<String> {
        anyhow::ensure!(self.ok, "the program failed: {}{}", self.out, self.err);
        Ok(self.out)
    }
}

/// Runs a program in a folder, without standard input.
pub async fn run_in(folder: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let path = std::env::var("PATH").unwrap_or_default();
    let tools = root().join("target/cluster/bin");
    let kubeconfig = std::env::var_os("KUBECONFIG")
        .map_or_else(|| root().join(".cluster/kubeconfig"), PathBuf::from);
    let running = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("PATH", format!("{path}:{}", tools.display()))
        .env("KUBECONFIG", kubeconfig)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(LIMIT, running)
        .await
        .with_context(|| format!("{program} {arguments:?} took longer than {LIMIT:?}"))?
        .with_context(|| format!("{program} cannot be run: is it installed?"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Output {
        ok: output.status.success(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    })
}

/// Runs a program in the root of the repository.
pub async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    run_in(&root(), program, arguments).await
}

/// Runs `kubectl` in the root of the repository; fails if it fails.
pub async fn kubectl(arguments: &[&str]) -> anyhow::Result<String> {
    run("kubectl", arguments)
        .await?
        .success()
        .with_context(|| format!("kubectl {arguments:?}"))
}

/// A response that curl received.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// `HTTP/1.1` or `HTTP/2`.
    pub version: String,
    /// Names are in lower case.
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find_map(|(one, value)| (one == name).then_some(value.as_str()))
    }

    /// Parses the body as JSON, the format of the sample shop.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("the body is not JSON: {self:?}"))
    }

    pub fn is(&self, status: u16) -> anyhow::Result<&Self> {
        anyhow::ensure!(
            self.status == status,
            "the status should be {status}: {self:?}"
        );
        Ok(self)
    }
}

/// Sends a request with curl. Returns an error if there was no response; any status is a response.
pub async fn curl(arguments: &[&str]) -> anyhow::Result<Reply> {
    let always = ["--silent", "--show-error", "--include", "--max-time", "20"];
    let output = run("curl", &[&always[..], arguments].concat()).await?;
    let text = output
        .success()
        .with_context(|| format!("curl {arguments:?}"))?;
    let mut rest = text.as_str();
    loop {
        let (head, body) = rest
            .split_once("\r\n\r\n")
            .with_context(|| format!("curl printed no response head: {text}"))?;
        let mut lines = head.lines();
        let mut status = lines.next().unwrap_or_default().split(' ');
        let version = status.next().unwrap_or_default().to_owned();
        let status = status.next().unwrap_or_default().parse()?;
        if (100..200).contains(&status) && status != 101 {
            rest = body;
            continue;
        }
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
        return Ok(Reply {
            status,
            version,
            headers: headers.collect(),
            body: body.to_owned(),
        });
    }
}

/// Sends a GET over HTTP for a host to an address and port.
pub async fn get(address: &str, port: u16, host: &str, path: &str) -> anyhow::Result<Reply> {
    let url = format!("http://{}:{port}{path}", in_url(address));
    curl(&["--header", &format!("host: {host}"), &url]).await
}

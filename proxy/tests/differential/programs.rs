//! Real servers as applications: Debian's packages, and short programs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::support::gateway::free_port;

/// The timeout for a start, which may include compilation.
const START: Duration = Duration::from_secs(120);

/// A server that is started for a test.
pub struct Server {
    pub name: &'static str,
    pub program: &'static str,
    pub arguments: &'static [&'static str],
    /// A file that is written into its folder first, with `@PORT` and `@DIR` replaced.
    pub file: (&'static str, &'static str),
}

/// Returns what `check` finds wrong with each server that is installed.
pub async fn each(
    servers: &[Server],
    mut check: impl AsyncFnMut(&Server, Running) -> Vec<String>,
) -> Vec<String> {
    let (mut wrong, mut left_out) = (Vec::new(), Vec::new());
    for server in servers {
        match server.start().await {
            Some(running) => wrong.extend(check(server, running).await),
            None => left_out.push(server.name),
        }
    }
    if !left_out.is_empty() {
        eprintln!("not installed: {left_out:?}");
    }
    wrong
}

/// A running server, which ends when dropped.
pub struct Running {
    pub address: SocketAddr,
    requests: PathBuf,
    read: usize,
    child: Child,
}

impl Server {
    /// Starts the server. Returns `None` if it is not installed and not required.
    pub async fn start(&self) -> Option<Running> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let fill = |text: &str| {
            text.replace("@DIR", folder.to_str().unwrap())
                .replace("@PORT", &port.to_string())
        };
        let (file, text) = self.file;
        std::fs::write(folder.join(file), fill(text)).unwrap();
        let requests = folder.join("requests");
        let output = std::fs::File::create(folder.join("output")).unwrap();
        let child = Command::new(self.program)
            .args(self.arguments.iter().map(|one| fill(one)))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(std::fs::File::create(folder.join("stderr")).unwrap())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) if std::env::var("WEFT_SERVERS").as_deref() == Ok("all") => {
                panic!("{}: {}: {error}", self.name, self.program)
            }
            Err(_) => return None,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let begun = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            let said = std::fs::read_to_string(folder.join("stderr")).unwrap();
            assert!(
                begun.elapsed() < START,
                "{} does not start: {said}",
                self.name
            );
            sleep(Duration::from_millis(20)).await;
        }
        let requests = match self.name {
            "nginx" => requests,
            _ => folder.join("output"),
        };
        Some(Running {
            address,
            requests,
            read: 0,
            child,
        })
    }
}

impl Running {
    /// Returns what was logged since the last call.
    pub fn logged(&mut self) -> String {
        let all = std::fs::read(&self.requests).unwrap_or_default();
        let new = String::from_utf8_lossy(&all[self.read..]).into_owned();
        self.read = all.len();
        new
    }
}

/// `go run` starts the server as a child process, so the whole process group is killed.
impl Drop for Running {
    fn drop(&mut self) {
        if let Some(leader) = self.child.id() {
            let mut kill = std::process::Command::new("kill");
            let _ = kill.args(["--", &format!("-{leader}")]).status();
        }
    }
}

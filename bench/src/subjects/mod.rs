//! The subjects: a direct connection, and pairs of proxies that do the same work: TLS 1.3 with
//! client certificates and HTTP/2 between them, one worker each, HTTP/1.1 at both ends.

mod peers;
mod pki;
mod weft;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Child;

use crate::netns::SERVICE;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Subject {
    Direct,
    Weft,
    Envoy,
    Haproxy,
}

impl Subject {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Weft => "weft",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
        }
    }
}

/// Paths of the programs that the subjects need.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Programs {
    #[arg(long, default_value = "target/dist/weft-proxy")]
    weft_proxy: PathBuf,
    #[arg(long, default_value = "target/dist/weft-injector")]
    weft_injector: PathBuf,
    #[arg(long, default_value = "target/bench/envoy")]
    envoy: PathBuf,
    #[arg(long, default_value = "haproxy")]
    haproxy: PathBuf,
    /// Configuration, keys and logs of the subjects.
    #[arg(long, default_value = "target/bench/state")]
    state: PathBuf,
}

/// A running pair of proxies, outbound first; none for the direct subject.
pub(crate) struct Pair {
    target: SocketAddr,
    children: Vec<Child>,
    pids: Vec<u32>,
    /// Resources that live as long as the pair.
    weft: Option<weft::Control>,
}

impl Pair {
    pub(crate) async fn start(
        subject: Subject,
        programs: &Programs,
        server: SocketAddr,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&programs.state)
            .with_context(|| format!("making {}", programs.state.display()))?;
        let (target, children, weft) = match subject {
            Subject::Direct => (server, vec![], None),
            Subject::Envoy => peers::envoy(programs, server).await?,
            Subject::Haproxy => peers::haproxy(programs, server).await?,
            Subject::Weft => weft::start(programs, SERVICE, server).await?,
        };
        let pids = children.iter().map(|child| {
            child
                .id()
                .context("a proxy exited at its start; its log is in the state folder")
        });
        let pids = pids.collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            target,
            children,
            pids,
            weft,
        })
    }

    /// The address that the client sends its requests to.
    pub(crate) fn target(&self) -> SocketAddr {
        self.target
    }

    pub(crate) fn processes(&self) -> &[u32] {
        &self.pids
    }

    pub(crate) async fn stop(mut self) {
        for child in &mut self.children {
            // Killing a process that has exited fails.
            child.kill().await.ok();
        }
        if let Some(control) = self.weft.take() {
            control.stop().await;
        }
    }
}

type Started = (SocketAddr, Vec<Child>, Option<weft::Control>);

/// Waits until the address accepts connections, for 10 s.
pub(crate) async fn accepts(address: SocketAddr) -> anyhow::Result<()> {
    let trying = async {
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), trying)
        .await
        .with_context(|| format!("nothing accepts connections on {address}"))
}

//! The network: namespaces for the client and its proxy, for the server and its proxy, and for the
//! benchmark itself.
//!
//! `bench/run` creates and removes them; this module has their names and addresses, and starts
//! programs in them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::process::Command;

/// The namespace of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    pub(crate) fn namespace(self) -> &'static str {
        match self {
            Self::Client => "weft-bench-client",
            Self::Server => "weft-bench-server",
        }
    }

    pub(crate) fn address(self) -> IpAddr {
        match self {
            Self::Client => IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1)),
            Self::Server => IpAddr::V4(Ipv4Addr::new(10, 88, 0, 2)),
        }
    }

    pub(crate) fn at(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }
}

/// The benchmark's address as seen by both sides.
pub(crate) const CONTROL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 3));

/// A Service address without a listener, so only redirected connections succeed.
pub(crate) const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 88, 1, 1)), 80);

/// The two cores: the ends share one, the proxies the other.
pub(crate) const ENDS: &str = "0";
pub(crate) const PROXIES: &str = "1";

/// Returns a command in a side's namespace, pinned to a core.
pub(crate) fn command(side: Side, core: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{}", side.namespace()))
        .args(["taskset", "-c", core, program]);
    command.kill_on_drop(true);
    command
}

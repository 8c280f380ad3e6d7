//! The network: a namespace for the client and its proxy, one for the server and its, one for the bench itself.
//!
//! `bench/run` makes and removes them; here are their names and addresses, and how a program is started in one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::process::Command;

/// Where a program runs.
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

/// The bench's own address as both sides see it.
pub(crate) const CONTROL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 3));

/// A Service address: nobody listens there, so only a redirected connection can be answered.
pub(crate) const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 88, 1, 1)), 80);

/// The two cores of the bench: the ends share one, the proxies the other.
pub(crate) const ENDS: &str = "0";
pub(crate) const PROXIES: &str = "1";

/// A command in a side's namespace, on the named core.
pub(crate) fn command(side: Side, core: &str, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{}", side.namespace()))
        .args(["taskset", "-c", core, program]);
    command.kill_on_drop(true);
    command
}

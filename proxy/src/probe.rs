//! TCP probes on the application's behalf: `/probe/tcp/<port>` says whether something listens
//! there.
//!
//! The listeners of the proxy accept every connection to the pod, so the kubelet asks here instead
//! (the injector writes its probes so). Only the ports that the pod's own probes name are ever
//! tried.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

pub mod sources;

/// Longer than the kubelet's own limit usually is; one that gave up ends the try.
const CONNECT: Duration = Duration::from_secs(10);

/// The ports that may be asked about.
#[derive(Clone, Debug)]
pub struct TcpProbes {
    /// The pod's address, where the kubelet would have connected to.
    host: IpAddr,
    ports: Arc<BTreeSet<u16>>,
}

/// Nothing accepts at the probed port.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{address}: {error}")]
    Refused {
        address: SocketAddr,
        error: std::io::Error,
    },
    #[error("{0}: no answer within 10 s")]
    Silent(SocketAddr),
}

impl TcpProbes {
    /// `own`: the pod's addresses, its first one first; without any, the application is looked for
    /// on loopback.
    pub fn new(own: &[IpAddr], ports: impl IntoIterator<Item = u16>) -> Self {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        Self {
            host: own.first().copied().unwrap_or(loopback),
            ports: Arc::new(ports.into_iter().collect()),
        }
    }

    /// The port that a path asks about, if it may.
    pub fn port(&self, path: &str) -> Option<u16> {
        let port = path.strip_prefix("/probe/tcp/")?.parse().ok()?;
        self.ports.contains(&port).then_some(port)
    }

    /// Whether a connection can be opened; it is closed at once.
    pub async fn check(&self, port: u16) -> Result<(), ProbeError> {
        let address = SocketAddr::new(self.host, port);
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(ProbeError::Refused { address, error }),
            Err(_) => Err(ProbeError::Silent(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_declared_probe_ports_are_served() {
        let probes = TcpProbes::new(&[], [5432, 80]);
        for (path, port) in [
            ("/probe/tcp/5432", Some(5432)),
            ("/probe/tcp/80", Some(80)),
            ("/probe/tcp/81", None),
            ("/probe/tcp/", None),
            ("/probe/tcp/80/", None),
            ("/probe/tcp/65616", None),
            ("/probe/tcp/example.com:80", None),
            ("/probe/http/80", None),
            ("/ready", None),
        ] {
            assert_eq!(probes.port(path), port, "{path}");
        }
    }

    #[tokio::test]
    async fn tcp_probe_succeeds_while_port_listens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probes = TcpProbes::new(&["127.0.0.1".parse().unwrap()], [port]);
        assert!(probes.check(port).await.is_ok());
        drop(listener);
        let error = probes.check(port).await.unwrap_err().to_string();
        assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");
    }
}

//! haproxy on this machine, in front of a gateway: a TCP load balancer that sends the PROXY
//! protocol, or an HTTP proxy that sets forwarding headers. It stops when the value is dropped.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;

use anyhow::Context;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::eventually;

/// The request ID that [`LoadBalancer::with_forwarded_headers`] sets.
pub const REQUEST_ID: &str = "named-by-the-hop";

/// A running haproxy.
pub struct LoadBalancer {
    _program: Child,
    /// The port on 127.0.0.1.
    pub port: u16,
}

impl LoadBalancer {
    /// Forwards connections to `to` (`address:port`), each after a PROXY protocol header: version 1
    /// with haproxy's option `send-proxy`, version 2 with `send-proxy-v2`.
    pub async fn with_proxy_protocol(to: &str, header: &str) -> anyhow::Result<Self> {
        Self::start("tcp", "", &format!("{to} {header}")).await
    }

    /// Forwards requests to `to`. Appends the client to X-Forwarded-For, and replaces
    /// X-Forwarded-Proto by `https` and X-Request-Id by [`REQUEST_ID`].
    pub async fn with_forwarded_headers(to: &str) -> anyhow::Result<Self> {
        let directives = format!(
            "option forwardfor\n http-request set-header x-forwarded-proto https\n \
             http-request set-header x-request-id {REQUEST_ID}\n"
        );
        Self::start("http", &directives, to).await
    }

    async fn start(mode: &str, directives: &str, to: &str) -> anyhow::Result<Self> {
        // The port may be taken meanwhile; haproxy then fails to start.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let configuration = format!(
            "defaults\n mode {mode}\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
             listen front\n bind 127.0.0.1:{port}\n {directives} server gateway {to}\n"
        );
        let mut program = Command::new("haproxy")
            .args(["-db", "-f", "/dev/stdin"])
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("haproxy cannot be run: is it installed?")?;
        let mut input = program.stdin.take().context("haproxy has no input")?;
        input.write_all(configuration.as_bytes()).await?;
        drop(input);
        eventually("haproxy to listen", async || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            Ok(())
        })
        .await?;
        Ok(Self {
            _program: program,
            port,
        })
    }
}

//! haproxy on this machine as what stands in front of a gateway: a load balancer of TCP that sends the PROXY protocol, or
//! a proxy of HTTP that says whom it speaks for. It ends with the value.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;

use anyhow::Context;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::eventually;

/// The name that [`Front::of_http`] gives every request.
pub const REQUEST_ID: &str = "named-by-the-hop";

/// A running haproxy.
pub struct Front {
    _program: Child,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl Front {
    /// Passes connections on to `to` (`address:port`), each behind a header of the PROXY protocol: version 1 by haproxy's
    /// word `send-proxy`, version 2 by `send-proxy-v2`.
    pub async fn of_bytes(to: &str, header: &str) -> anyhow::Result<Self> {
        Self::start("tcp", "", &format!("{to} {header}")).await
    }

    /// Passes requests on to `to`. Adds its client to X-Forwarded-For; says, in place of whatever was said before, that it
    /// was asked over HTTPS, and what the request is called.
    pub async fn of_http(to: &str) -> anyhow::Result<Self> {
        let says = format!(
            "option forwardfor\n http-request set-header x-forwarded-proto https\n \
             http-request set-header x-request-id {REQUEST_ID}\n"
        );
        Self::start("http", &says, to).await
    }

    async fn start(mode: &str, says: &str, to: &str) -> anyhow::Result<Self> {
        // Free a moment ago: haproxy says so where it is not any more.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let configuration = format!(
            "defaults\n mode {mode}\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
             listen front\n bind 127.0.0.1:{port}\n {says} server gateway {to}\n"
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

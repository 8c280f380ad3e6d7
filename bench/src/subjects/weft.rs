//! Weft: two sidecars as in pods, with the real redirect rules, configured over the real protocol.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::process::Child;
use weft_ir::{
    Backend, Destination, Endpoint, EndpointSet, Identity, Mode, Protocol, Routing, Service,
    ServicePort, Target, TrustDomain, WeightedBackend, Workload,
};
use weft_testkit::controller::FakeController;
use weft_testkit::pki::Pki;

use super::peers::{start as spawn, text, write};
use super::{Programs, Started};
use crate::netns::{self, CONTROL, Side};

/// The user whose connections are not redirected.
const PROXY_UID: &str = "2460";
const CONTROLLER_PORT: u16 = 15012;
const TOKEN: &str = "bench";

/// The controller, and the redirect rules in both namespaces.
pub(crate) struct Control {
    _controller: FakeController,
}

impl Control {
    /// Removes the redirect rules, so that the other subjects run without them.
    pub(crate) async fn stop(self) {
        for side in [Side::Client, Side::Server] {
            let mut command = netns::command(side, netns::ENDS, "nft");
            // Nothing to undo if the rules are already gone.
            command
                .args(["delete", "table", "inet", "weft"])
                .status()
                .await
                .ok();
        }
    }
}

/// `service` is the address that the client connects to, `server` the only endpoint behind it.
pub(super) async fn start(
    programs: &Programs,
    service: SocketAddr,
    server: SocketAddr,
) -> anyhow::Result<Started> {
    let identity = Identity::new(TrustDomain::new("cluster.local")?, "bench", "default")?;
    let pki = Arc::new(Pki::new()?);
    let roots = programs.state.join("weft-roots.pem");
    write(&roots, &pki.root_pem())?;
    let token = programs.state.join("weft-token");
    write(&token, TOKEN)?;

    let address = SocketAddr::new(CONTROL, CONTROLLER_PORT);
    let controller = FakeController::start_at(address, pki, identity.clone(), TOKEN).await?;
    configure(&controller, &identity, service, server);

    let mut children = Vec::new();
    for (name, side) in [
        ("weft-outbound", Side::Client),
        ("weft-inbound", Side::Server),
    ] {
        redirect(programs, side).await?;
        children.push(proxy(
            programs,
            name,
            side,
            &controller.url(),
            &roots,
            &token,
        )?);
    }
    for side in [Side::Client, Side::Server] {
        ready(side)
            .await
            .context("waiting for a proxy's /ready; its log is in the state folder")?;
    }
    Ok((
        service,
        children,
        Some(Control {
            _controller: controller,
        }),
    ))
}

fn configure(
    controller: &FakeController,
    identity: &Identity,
    service: SocketAddr,
    server: SocketAddr,
) {
    let id = ServicePort::new("bench", "server", service.port());
    let backends = vec![WeightedBackend {
        weight: 1,
        backend: Backend::Service(id.clone()),
        filters: vec![],
    }];
    let routed = Service {
        id: id.clone(),
        protocol: Protocol::Http1,
        routing: Routing::Direct(backends),
    };
    controller.set_workload(&Workload::new(identity.clone(), Mode::Permissive));
    let endpoint = Endpoint {
        address: server,
        identity: Some(identity.clone()),
    };
    controller.set_endpoints(&EndpointSet::new(id, Protocol::Http1, vec![endpoint]));
    controller.set_destination(&Destination {
        address: service,
        target: Target::Service(Arc::new(routed)),
    });
}

async fn redirect(programs: &Programs, side: Side) -> anyhow::Result<()> {
    let status = netns::command(side, netns::ENDS, text(&programs.weft_injector)?)
        .args(["redirect", "--proxy-uid", PROXY_UID])
        .status()
        .await
        .context("running weft-injector redirect")?;
    anyhow::ensure!(status.success(), "weft-injector redirect: {status}");
    Ok(())
}

fn proxy(
    programs: &Programs,
    name: &str,
    side: Side,
    controller: &str,
    roots: &Path,
    token: &Path,
) -> anyhow::Result<Child> {
    let mut command = netns::command(side, netns::PROXIES, "setpriv");
    command.args(["--reuid", PROXY_UID, "--regid", PROXY_UID, "--clear-groups"]);
    command.arg(text(&programs.weft_proxy)?);
    command
        .env("WEFT_CONTROLLER", controller)
        .env("WEFT_ROOTS", roots)
        .env("WEFT_TOKEN", token);
    command
        .env("WEFT_ACCESS_LOG", "off")
        .env("WEFT_WORKERS", "1");
    command
        .env("POD_NAME", name)
        .env("POD_NAMESPACE", "bench")
        .env("SERVICE_ACCOUNT", "default");
    command.env("POD_IPS", side.address().to_string());
    spawn(command, &programs.state, name)
}

/// Polls `/ready` until it answers 200, for 10 s.
async fn ready(side: Side) -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let ask = async || -> std::io::Result<bool> {
        let mut stream = tokio::net::TcpStream::connect(side.at(15021)).await?;
        stream
            .write_all(b"GET /ready HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    let trying = async {
        while !matches!(ask().await, Ok(true)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), trying)
        .await
        .with_context(|| format!("{side:?} is not ready"))
}

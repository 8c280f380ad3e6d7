//! The binary itself: becomes ready once configured, survives garbage, drains on SIGTERM.

use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use weft_ir::{Identity, Mode, TrustDomain, Workload};
use weft_testkit::controller::FakeController;
use weft_testkit::pki::Pki;

/// A soft limit of open files below what the proxy needs under load.
const FEW_FILES: i64 = 128;

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

struct Proxy {
    child: Child,
    outbound: SocketAddr,
    inbound: SocketAddr,
    admin: SocketAddr,
    ready: SocketAddr,
}

fn start(controller: &FakeController, folder: &std::path::Path) -> Proxy {
    let [outbound, inbound, admin, ready] = free_ports();
    // Only the soft limit is lowered, as container runtimes do.
    let mut command = Command::new("prlimit");
    command
        .args([
            &format!("--nofile={FEW_FILES}:"),
            env!("CARGO_BIN_EXE_weft-proxy"),
        ])
        .env_clear()
        .env("WEFT_CONTROLLER", controller.url())
        .env("WEFT_TOKEN", folder.join("token"))
        .env("WEFT_ROOTS", folder.join("ca.crt"))
        .env("POD_NAME", "front-0")
        .env("POD_NAMESPACE", "shop")
        .env("POD_IPS", "10.0.0.1,fd00::1")
        .env("SERVICE_ACCOUNT", "front")
        .env("WEFT_OUTBOUND", outbound.to_string())
        .env("WEFT_INBOUND", inbound.to_string())
        .env("WEFT_ADMIN", admin.to_string())
        .env("WEFT_READY", ready.to_string())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Proxy {
        child: command.spawn().unwrap(),
        outbound,
        inbound,
        admin,
        ready,
    }
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut tcp = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    tcp.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn until_ready(proxy: &Proxy) {
    let poll = async {
        loop {
            match get(proxy.ready, "/ready").await {
                Ok(answer) if answer.starts_with("HTTP/1.1 200") => return,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), poll).await;
    waited.expect("the proxy is ready");
}

/// Sends bytes and waits for the other side to close, for 10 s at most.
async fn closes(address: SocketAddr, bytes: &[u8]) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    // The connection may be closed already.
    let _ = tcp.write_all(bytes).await;
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), tcp.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "{address} stays open after {bytes:?}");
}

#[tokio::test]
async fn process_becomes_ready_survives_garbage_and_drains_on_sigterm() {
    let account = Identity::new(TrustDomain::new("cluster.local").unwrap(), "shop", "front");
    let account = account.unwrap();
    let pki = Arc::new(Pki::new().unwrap());
    let controller = FakeController::start(pki.clone(), account.clone(), "right");
    let controller = controller.await.unwrap();
    let folder = std::env::temp_dir().join(format!("weft-process-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("token"), "right").unwrap();
    std::fs::write(folder.join("ca.crt"), pki.root_pem()).unwrap();

    let mut proxy = start(&controller, &folder);
    // It has a certificate, and waits for its workload.
    controller
        .wait_for(0, |event| {
            matches!(event, weft_testkit::controller::Event::Hello { .. })
        })
        .await
        .unwrap();
    let answer = get(proxy.ready, "/ready").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("no configuration yet"), "{answer}");
    controller.set_workload(&Workload::new(account, Mode::Permissive));
    until_ready(&proxy).await;

    // These connections were not redirected, so they are closed whatever they send.
    for address in [proxy.outbound, proxy.inbound, proxy.admin, proxy.ready] {
        for garbage in [
            &b"\x16\x03\x01\xff\xff\x01"[..],
            b"\0\0\0\0\r\n\r\n",
            &[0xff; 4096],
        ] {
            closes(address, garbage).await;
        }
    }
    until_ready(&proxy).await;
    let metrics = get(proxy.admin, "/metrics").await.unwrap();
    assert!(
        metrics.contains("weft_protocol_errors_total{listener="),
        "{metrics}"
    );
    let figure = |name: &str| -> i64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    };
    println!("idle: {}", figure("process_resident_memory_bytes "));
    assert!(figure("process_max_fds ") > FEW_FILES);

    let id = proxy.child.id().unwrap().to_string();
    let sent = Command::new("kill").args(["-TERM", &id]).status().await;
    assert!(sent.unwrap().success());
    let ended = tokio::time::timeout(Duration::from_secs(10), proxy.child.wait()).await;
    assert!(ended.expect("the process exits").unwrap().success());
    let mut log = String::new();
    let mut stderr = proxy.child.stderr.take().unwrap();
    stderr.read_to_string(&mut log).await.unwrap();
    assert!(
        log.contains("draining") && !log.contains("panicked"),
        "{log}"
    );
    let _ = std::fs::remove_dir_all(folder);
}

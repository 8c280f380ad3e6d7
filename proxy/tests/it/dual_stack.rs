//! The binary behind real redirect rules, over IPv4 and IPv6: two pods, each a network namespace
//! with its own proxy, and a hub namespace between them for everything else. Needs root, `ip`,
//! `nft` and `setpriv`; without root the test is skipped and says so, or fails with
//! `WEFT_ROOT_TESTS=all`.
//!
//! Processes inside a namespace are this test binary again, under a given user (`role`).

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{endpoints, identity, meshed, port, to, unmeshed};
use weft_api::{encode, proto};
use weft_ir::{Destination, Endpoint, Mode, Protocol, Routing, Service, Target, Workload};
use weft_testkit::controller::FakeController;
use weft_testkit::pki::Pki;
use weft_testkit::root::rooted;
use weft_testkit::upstream::{Speaks, Upstream};

/// The ruleset that the injector writes, from its snapshot, which begins with three lines of
/// metadata.
const RULES: &str = include_str!(
    "../../../injector/src/redirect/snapshots/weft_injector__redirect__ruleset__tests__the_rules_of_a_pod.snap"
);
const ROLE: &str = "WEFT_TEST_ROLE";
const NETWORK: &str = "WEFT_TEST_NETWORK";
const PROXY: u32 = 2460;
const APP: u32 = 1000;
const HTTP: u16 = 8080;
const GREET: u16 = 7001;

/// The last byte of the addresses of each namespace.
const HUB: u8 = 1;
const CLIENT: u8 = 2;
const SERVER: u8 = 3;

fn v4(host: u8) -> IpAddr {
    [10, 78, 0, host].into()
}

fn v6(host: u8) -> IpAddr {
    [0xfd78, 0, 0, 0, 0, 0, 0, host.into()].into()
}

/// Virtual addresses of Services, assigned to no interface.
fn cluster_v4(host: u8) -> IpAddr {
    [10, 96, 0, host].into()
}

fn cluster_v6(host: u8) -> IpAddr {
    [0xfd96, 0, 0, 0, 0, 0, 0, host.into()].into()
}

/// The namespaces of one test, and a folder that every user may read. Removed when dropped.
struct Network {
    id: String,
    folder: PathBuf,
}

impl Network {
    fn new() -> Self {
        let id = format!("weft{}", std::process::id());
        let network = Self {
            folder: std::env::temp_dir().join(&id),
            id,
        };
        fs::create_dir(&network.folder).unwrap();
        let copy = |from: &Path, name: &str| fs::copy(from, network.folder.join(name)).unwrap();
        copy(&std::env::current_exe().unwrap(), "role");
        copy(Path::new(env!("CARGO_BIN_EXE_weft-proxy")), "weft-proxy");
        network.wire();
        network
    }

    /// The network of the parent process, which also removes it.
    fn inherited() -> std::mem::ManuallyDrop<Self> {
        let id = std::env::var(NETWORK).unwrap();
        std::mem::ManuallyDrop::new(Self {
            folder: std::env::temp_dir().join(&id),
            id,
        })
    }

    fn namespace(&self, host: u8) -> String {
        format!("{}n{host}", self.id)
    }

    /// Connects the namespaces through a bridge in the hub, the default gateway of both pods.
    fn wire(&self) {
        for host in [HUB, CLIENT, SERVER] {
            let name = self.namespace(host);
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
        }
        let hub = self.namespace(HUB);
        ip(&format!("-n {hub} link add eth0 type bridge"));
        for host in [CLIENT, SERVER] {
            let name = self.namespace(host);
            ip(&format!(
                "-n {name} link add eth0 type veth peer name pod{host} netns {hub}"
            ));
            ip(&format!("-n {hub} link set pod{host} master eth0 up"));
        }
        for host in [HUB, CLIENT, SERVER] {
            let name = self.namespace(host);
            ip(&format!("-n {name} addr add {}/24 dev eth0", v4(host)));
            ip(&format!(
                "-n {name} addr add {}/64 dev eth0 nodad",
                v6(host)
            ));
            ip(&format!("-n {name} link set eth0 up"));
        }
        for host in [CLIENT, SERVER] {
            let name = self.namespace(host);
            ip(&format!("-n {name} route add default via {}", v4(HUB)));
            ip(&format!("-n {name} -6 route add default via {}", v6(HUB)));
        }
    }

    /// `ip netns exec` needs root, so setpriv changes the user after it and drops all capabilities.
    fn inside(&self, host: u8, user: u32, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]);
        if user != 0 {
            let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
            command.args([
                "setpriv",
                &uid,
                &gid,
                "--clear-groups",
                "--bounding-set=-all",
            ]);
        }
        command
            .arg(self.folder.join(program))
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    fn role(&self, host: u8, user: u32, role: &str) -> Command {
        let mut command = self.inside(host, user, "role");
        command
            .args(["--ignored", "--exact", "dual_stack::role", "--nocapture"])
            .env(ROLE, role)
            .env(NETWORK, &self.id);
        command
    }

    /// Returns what a client in the namespace receives from an address.
    fn fetch(&self, host: u8, user: u32, how: &str, address: SocketAddr) -> String {
        let output = self.role(host, user, &format!("{how} {address}")).output();
        text(&output.unwrap())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in [HUB, CLIENT, SERVER] {
            let name = self.namespace(host);
            let inside = Command::new("ip").args(["netns", "pids", &name]).output();
            for id in inside.map(|found| text(&found)).unwrap_or_default().lines() {
                let _ = Command::new("kill").args(["-KILL", id]).output();
            }
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("the program ip (package iproute2) is installed");
    assert!(output.status.success(), "ip {arguments}: {}", text(&output));
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

#[test]
fn ipv4_and_ipv6_are_redirected_encrypted_and_routed() {
    if !rooted() {
        return;
    }
    let network = Network::new();
    let output = network.role(HUB, 0, "scenario").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("THE END"), "{}", text(&output));
}

/// Entry point of the child processes of the test above; does nothing on its own.
#[tokio::test]
#[ignore = "a process that the other test starts"]
async fn role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    match role.split_once(' ') {
        None if role == "scenario" => scenario().await,
        Some(("serve", name)) => serve(name).await,
        Some((how, address)) => ask(how, address.parse().unwrap()),
        _ => panic!("{role} is no role"),
    }
}

/// Runs an HTTP application, and one whose server sends first, on both families.
async fn serve(name: &str) {
    let any = |port| SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), port);
    let _http = Upstream::start_at(any(HTTP), name, Speaks::Http1)
        .await
        .unwrap();
    let _greet = Upstream::start_at(any(GREET), name, Speaks::First)
        .await
        .unwrap();
    std::future::pending().await
}

fn ask(how: &str, address: SocketAddr) {
    let limit = Duration::from_secs(5);
    let asked = TcpStream::connect_timeout(&address, limit).and_then(|mut stream| {
        stream.set_read_timeout(Some(limit))?;
        if how == "get" {
            stream
                .write_all(b"GET /asked HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n")?;
        }
        let mut received = vec![0; 4096];
        let length = stream.read(&mut received)?;
        Ok(String::from_utf8_lossy(&received[..length]).into_owned())
    });
    println!("RECEIVED {asked:?}");
}

/// A child process that is killed when dropped.
struct Running(#[allow(dead_code)] Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a pod: its redirect rules, its application, and its proxy, configured by `controller`.
fn pod(network: &Network, host: u8, name: &str, controller: &FakeController) -> [Running; 2] {
    let namespace = network.namespace(host);
    let rules = Command::new("ip")
        .args(["netns", "exec", &namespace, "nft", "-f"])
        .arg(network.folder.join("rules"))
        .output()
        .unwrap();
    assert!(rules.status.success(), "{}", text(&rules));
    let app = network.role(host, APP, &format!("serve {name}")).spawn();
    let proxy = network
        .inside(host, PROXY, "weft-proxy")
        .env("WEFT_CONTROLLER", controller.url())
        .env("WEFT_TOKEN", network.folder.join("token"))
        .env("WEFT_ROOTS", network.folder.join("ca.crt"))
        .env("POD_NAME", format!("{name}-0"))
        .env("POD_NAMESPACE", "shop")
        .env("POD_IPS", format!("{},{}", v4(host), v6(host)))
        .env("SERVICE_ACCOUNT", name)
        .spawn();
    [Running(app.unwrap()), Running(proxy.unwrap())]
}

/// Returns the response of one of the proxy's own ports, which are not redirected.
fn own_port(address: SocketAddr, path: &str) -> String {
    let mut answer = String::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_string(&mut answer);
    }
    answer
}

async fn until_ready(host: u8) {
    let begun = Instant::now();
    for address in [v4(host), v6(host)] {
        // The controllers run on this thread, which must not block.
        while !ready(address).await {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{address} is not ready"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn ready(address: IpAddr) -> bool {
    let port = SocketAddr::new(address, 15021);
    let asked = tokio::task::spawn_blocking(move || own_port(port, "/ready"));
    asked.await.unwrap().starts_with("HTTP/1.1 200")
}

fn destination(address: SocketAddr, name: &str, protocol: Protocol) -> proto::Resource {
    encode::destination(&Destination {
        address,
        target: Target::Service(Arc::new(Service {
            id: port(name),
            protocol,
            routing: Routing::Direct(vec![to(name, 1)]),
        })),
    })
}

fn pod_destination(endpoint: Endpoint) -> proto::Resource {
    encode::destination(&Destination {
        address: endpoint.address,
        target: Target::Pod(endpoint),
    })
}

/// Configures the client's proxy; returns each request to send with the expected response. Each
/// Service has one endpoint.
fn configure(controller: &FakeController) -> Vec<(SocketAddr, &'static str, &'static str)> {
    let mut requests = Vec::new();
    let mut resources = Vec::new();
    let mut add =
        |address: IpAddr, how: &'static str, name: &'static str, to: Endpoint, received| {
            let address = SocketAddr::new(address, 80);
            let protocol = match how {
                "get" => Protocol::Http1,
                _ => Protocol::Detect,
            };
            resources.push(destination(address, name, protocol));
            resources.push(endpoints(name, protocol, &[to]));
            requests.push((address, how, received));
        };
    let server = |address: IpAddr, port| meshed(SocketAddr::new(address, port), "reviews");
    let (old, new) = (v4(SERVER), v6(SERVER));
    let reviews = "x-upstream: reviews";
    add(cluster_v4(1), "get", "old", server(old, HTTP), reviews);
    add(cluster_v6(1), "get", "new", server(new, HTTP), reviews);
    // Across the families.
    add(
        cluster_v4(2),
        "get",
        "old-to-new",
        server(new, HTTP),
        reviews,
    );
    add(
        cluster_v6(2),
        "get",
        "new-to-old",
        server(old, HTTP),
        reviews,
    );
    // A server-first protocol on an undeclared port.
    add(
        cluster_v4(3),
        "greet",
        "greet-old",
        server(old, GREET),
        "hello",
    );
    add(
        cluster_v6(3),
        "greet",
        "greet-new",
        server(new, GREET),
        "hello",
    );
    // Servers without a proxy.
    let plain = |address| unmeshed(SocketAddr::new(address, HTTP));
    add(
        cluster_v4(4),
        "get",
        "plain-old",
        plain(v4(HUB)),
        "x-upstream: outside",
    );
    add(
        cluster_v6(4),
        "get",
        "plain-new",
        plain(v6(HUB)),
        "x-upstream: outside",
    );
    // A Service whose only endpoint is the client itself.
    let own = |address| meshed(SocketAddr::new(address, HTTP), "frontend");
    add(
        cluster_v4(5),
        "get",
        "own-old",
        own(v4(CLIENT)),
        "x-upstream: frontend",
    );
    add(
        cluster_v6(5),
        "get",
        "own-new",
        own(v6(CLIENT)),
        "x-upstream: frontend",
    );
    // Pods by their addresses.
    for address in [old, new] {
        resources.push(pod_destination(server(address, HTTP)));
        requests.push((SocketAddr::new(address, HTTP), "get", reviews));
    }
    for address in [v4(CLIENT), v6(CLIENT)] {
        requests.push((
            SocketAddr::new(address, HTTP),
            "get",
            "x-upstream: frontend",
        ));
    }
    controller.set(resources);
    requests
}

async fn scenario() {
    let network = Network::inherited();
    let pki = Arc::new(Pki::new().unwrap());
    let (_, rules) = RULES.split_once("\n---\n").unwrap();
    fs::write(network.folder.join("rules"), rules).unwrap();
    fs::write(network.folder.join("token"), "right").unwrap();
    fs::write(network.folder.join("ca.crt"), pki.root_pem()).unwrap();
    let start = async |address: IpAddr, account: &str, mode: Mode| {
        let account = identity(account);
        let address = SocketAddr::new(address, 0);
        let controller = FakeController::start_at(address, pki.clone(), account.clone(), "right");
        let controller = controller.await.unwrap();
        controller.set_workload(&Workload::new(account, mode));
        controller
    };
    // One controller is reached over IPv4, the other over IPv6.
    let of_client = start(v4(HUB), "frontend", Mode::Strict).await;
    let of_server = start(v6(HUB), "reviews", Mode::Permissive).await;
    let requests = configure(&of_client);
    let any = SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), HTTP);
    let _outside = Upstream::start_at(any, "outside", Speaks::Http1)
        .await
        .unwrap();
    let _pods = (
        pod(&network, CLIENT, "frontend", &of_client),
        pod(&network, SERVER, "reviews", &of_server),
    );
    until_ready(CLIENT).await;
    until_ready(SERVER).await;

    let fetch = async |host: u8, user: u32, how: &'static str, address: SocketAddr| {
        let network = Network::inherited();
        let received = tokio::task::spawn_blocking(move || network.fetch(host, user, how, address));
        received.await.unwrap()
    };
    let metrics = async |host: u8| {
        let address = SocketAddr::new(v6(host), 15020);
        let asked = tokio::task::spawn_blocking(move || own_port(address, "/metrics"));
        asked.await.unwrap()
    };
    for (address, how, expected) in requests {
        let received = fetch(CLIENT, APP, how, address).await;
        assert!(received.contains(expected), "{how} {address}: {received}");
        if how == "get" {
            assert!(received.contains("x-path: /asked"), "{received}");
        }
    }
    // All traffic inside the mesh was encrypted, over both families.
    let seen = metrics(SERVER).await;
    let inbound =
        |tls: &str| format!(r#"weft_connections_total{{direction="inbound",tls="{tls}"}}"#);
    assert!(seen.contains(&inbound("mesh")), "{seen}");
    assert!(!seen.contains(&inbound("none")), "{seen}");
    // Clients without a proxy.
    for address in [v4(SERVER), v6(SERVER)] {
        let received = fetch(HUB, 0, "get", SocketAddr::new(address, HTTP)).await;
        assert!(
            received.contains("x-upstream: reviews"),
            "{address}: {received}"
        );
    }
    // The metrics page is cached for a second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let seen = metrics(SERVER).await;
    assert!(seen.contains(&format!("{} 2\n", inbound("none"))), "{seen}");
    println!("THE END");
}

//! Two network namespaces, `near` (the pod) and `far` (the rest of the network), and processes in
//! them. Everything is removed when the value is dropped, also if a test fails.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

pub(crate) const PROXY_UID: u32 = 2460;
pub(crate) const APP_UID: u32 = 1000;
const PATIENCE: Duration = Duration::from_secs(5);
const ROLE: &str = "WEFT_TEST_ROLE";

/// A pod and the rest of the network.
pub(crate) struct Pod {
    near: String,
    far: String,
    /// A folder in which other users can run this binary: the build folder may be closed to them.
    folder: PathBuf,
}

impl Pod {
    /// `name` must be unique among the tests of this file and have at most 6 characters.
    pub(crate) fn new(name: &str) -> Self {
        let id = format!("weft{}{name}", std::process::id());
        let folder = std::env::temp_dir().join(&id);
        let pod = Self {
            near: format!("{id}n"),
            far: format!("{id}f"),
            folder,
        };
        fs::create_dir(&pod.folder).unwrap();
        fs::copy(std::env::current_exe().unwrap(), pod.folder.join("role")).unwrap();
        fs::copy(
            env!("CARGO_BIN_EXE_weft-injector"),
            pod.folder.join("weft-injector"),
        )
        .unwrap();
        pod.wire();
        pod
    }

    fn wire(&self) {
        let (near, far) = (self.near.as_str(), self.far.as_str());
        ip(&["netns", "add", near]);
        ip(&["netns", "add", far]);
        ip(&[
            "-n", near, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", far,
        ]);
        for (namespace, last) in [(near, "2"), (far, "3")] {
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
            ip(&[
                "-n",
                namespace,
                "addr",
                "add",
                &format!("10.77.0.{last}/24"),
                "dev",
                "eth0",
            ]);
            ip(&[
                "-n",
                namespace,
                "addr",
                "add",
                &format!("fd77::{last}/64"),
                "dev",
                "eth0",
                "nodad",
            ]);
            ip(&["-n", namespace, "link", "set", "eth0", "up"]);
        }
    }

    /// Routes packets for `to` from `far` through the neighbour `by`; also loopback addresses other
    /// than 127.0.0.1.
    pub(crate) fn route_from_far(&self, to: &str, by: &str) {
        let far = self.far.as_str();
        let localnet = "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip route del table local 127.0.0.0/8 dev lo || true";
        ip(&["netns", "exec", far, "sh", "-c", localnet]);
        ip(&["-n", far, "route", "add", to, "via", by, "dev", "eth0"]);
    }

    pub(crate) fn near_v4(&self, port: u16) -> SocketAddr {
        ([10, 77, 0, 2], port).into()
    }

    pub(crate) fn near_v6(&self, port: u16) -> SocketAddr {
        ([0xfd77, 0, 0, 0, 0, 0, 0, 2], port).into()
    }

    pub(crate) fn far_v4(&self, port: u16) -> SocketAddr {
        ([10, 77, 0, 3], port).into()
    }

    pub(crate) fn far_v6(&self, port: u16) -> SocketAddr {
        ([0xfd77, 0, 0, 0, 0, 0, 0, 3], port).into()
    }

    /// Runs `weft-injector redirect` in the pod.
    pub(crate) fn redirect(&self, more: &[&str]) {
        let output = self
            .inside(&self.near, "weft-injector", 0)
            .arg("redirect")
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Like `redirect`, as an unprivileged user: returns whether it succeeded, and its output.
    pub(crate) fn redirect_as(&self, uid: u32) -> (bool, String) {
        let output = self
            .inside(&self.near, "weft-injector", uid)
            .arg("redirect")
            .output()
            .unwrap();
        (output.status.success(), text(&output))
    }

    pub(crate) fn rules(&self) -> String {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.near, "nft", "list", "ruleset"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn listen_as_proxy(&self, port: u16) -> Listener {
        self.listen(&self.near, PROXY_UID, port)
    }

    pub(crate) fn listen_as_app(&self, port: u16) -> Listener {
        self.listen(&self.near, APP_UID, port)
    }

    pub(crate) fn listen_far(&self, port: u16) -> Listener {
        self.listen(&self.far, 0, port)
    }

    fn listen(&self, namespace: &str, uid: u32, port: u16) -> Listener {
        let mut child = self
            .role(namespace, uid, &format!("listen {port}"))
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut listener = Listener { child, stdout };
        listener.line("LISTENING");
        listener
    }

    /// Connects from the pod and reads what the listener sends.
    pub(crate) fn dial(&self, uid: u32, to: SocketAddr) {
        assert!(
            self.try_dial(uid, to),
            "{to} cannot be reached by user {uid}"
        );
    }

    pub(crate) fn try_dial(&self, uid: u32, to: SocketAddr) -> bool {
        self.connects(&self.near, uid, to)
    }

    pub(crate) fn dial_from_far(&self, to: SocketAddr) {
        assert!(
            self.try_dial_from_far(to),
            "{to} cannot be reached from outside"
        );
    }

    pub(crate) fn try_dial_from_far(&self, to: SocketAddr) -> bool {
        self.connects(&self.far, 0, to)
    }

    fn connects(&self, namespace: &str, uid: u32, to: SocketAddr) -> bool {
        let output = self
            .role(namespace, uid, &format!("dial {to}"))
            .output()
            .unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        said.contains("REACHED")
    }

    fn role(&self, namespace: &str, uid: u32, role: &str) -> Command {
        let mut command = self.inside(namespace, "role", uid);
        command
            .args(["--ignored", "--exact", "role", "--nocapture"])
            .env(ROLE, role)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        command
    }

    /// `ip netns exec` needs root, so setpriv changes the user after it and drops all capabilities.
    fn inside(&self, namespace: &str, program: &str, uid: u32) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]);
        if uid != 0 {
            let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
            command.args([
                "setpriv",
                &user,
                &group,
                "--clear-groups",
                "--bounding-set=-all",
            ]);
        }
        command
            .arg(self.folder.join(program))
            .current_dir("/")
            .process_group(0);
        command
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .output();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A process that accepts connections and prints the original destination of each.
pub(crate) struct Listener {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Listener {
    /// Returns the original destination of the next connection, which must already be established.
    pub(crate) fn next_destination(mut self) -> SocketAddr {
        self.line("DESTINATION ").parse().unwrap()
    }

    /// Returns the rest of the first line that contains `mark`.
    fn line(&mut self, mark: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.stdout.read_line(&mut line).unwrap();
            assert!(read > 0, "the listener ended before it said {mark}");
            if let Some((_, rest)) = line.split_once(mark) {
                return rest.trim().to_owned();
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs this binary as a listener or dialer.
pub(crate) fn role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    match role.split_once(' ') {
        Some(("listen", port)) => listen(port.parse().unwrap()),
        Some(("dial", to)) => dial(to.parse().unwrap()),
        _ => panic!("{ROLE}={role} is not a role"),
    }
}

/// Binds one dual-stack socket, like the proxy.
fn listen(port: u16) {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket
        .bind(&SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port)).into())
        .unwrap();
    socket.listen(16).unwrap();
    println!("\nLISTENING");
    for stream in TcpListener::from(socket).incoming() {
        let mut stream = stream.unwrap();
        println!("\nDESTINATION {}", destination(&stream));
        let _ = stream.write_all(b"hello");
    }
}

/// Returns the original destination. IPv4 connections are mapped to IPv6 on this socket; their
/// original destination is an IPv4 socket option.
fn destination(stream: &TcpStream) -> SocketAddr {
    let local = stream.local_addr().unwrap();
    let socket = SockRef::from(stream);
    let asked = if local.ip().to_canonical().is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    // Without a redirect, the local address is the destination.
    let to = asked.ok().and_then(|to| to.as_socket()).unwrap_or(local);
    SocketAddr::new(to.ip().to_canonical(), to.port())
}

fn dial(to: SocketAddr) {
    let reached = TcpStream::connect_timeout(&to, PATIENCE).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting)
    });
    match reached {
        Ok(()) => println!("\nREACHED"),
        Err(error) => println!("\nFAILED {error}"),
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip")
        .args(args)
        .output()
        .expect("the program ip (package iproute2) is installed");
    assert!(
        output.status.success(),
        "ip {}: {}",
        args.join(" "),
        text(&output)
    );
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

//! Two network namespaces, one of the pod and one of a remote host, and processes in them.
//! Everything is removed when the value is dropped, also if a test fails.

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
const TIMEOUT: Duration = Duration::from_secs(5);
const CHILD: &str = "WEFT_TEST_CHILD";

/// The namespaces of a pod and of a remote host, joined by a veth.
pub(crate) struct Pod {
    pod_namespace: String,
    remote: String,
    /// A folder in which other users can run this binary: the build folder may be closed to them.
    folder: PathBuf,
}

impl Pod {
    /// `name` must be unique among the tests of this file and have at most 6 characters.
    pub(crate) fn new(name: &str) -> Self {
        let id = format!("weft{}{name}", std::process::id());
        let folder = std::env::temp_dir().join(&id);
        let pod = Self {
            pod_namespace: format!("{id}n"),
            remote: format!("{id}f"),
            folder,
        };
        fs::create_dir(&pod.folder).unwrap();
        fs::copy(std::env::current_exe().unwrap(), pod.folder.join("child")).unwrap();
        fs::copy(
            env!("CARGO_BIN_EXE_weft-injector"),
            pod.folder.join("weft-injector"),
        )
        .unwrap();
        pod.create_network();
        pod
    }

    fn create_network(&self) {
        let (pod_namespace, remote) = (self.pod_namespace.as_str(), self.remote.as_str());
        ip(&["netns", "add", pod_namespace]);
        ip(&["netns", "add", remote]);
        ip(&[
            "-n",
            pod_namespace,
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            remote,
        ]);
        for (namespace, last) in [(pod_namespace, "2"), (remote, "3")] {
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

    /// Routes the remote host's packets for `to` through the neighbour `by`; also for loopback
    /// addresses other than 127.0.0.1.
    pub(crate) fn route_from_remote(&self, to: &str, by: &str) {
        let remote = self.remote.as_str();
        let localnet = "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip route del table local 127.0.0.0/8 dev lo || true";
        ip(&["netns", "exec", remote, "sh", "-c", localnet]);
        ip(&["-n", remote, "route", "add", to, "via", by, "dev", "eth0"]);
    }

    pub(crate) fn pod_v4(&self, port: u16) -> SocketAddr {
        ([10, 77, 0, 2], port).into()
    }

    pub(crate) fn pod_v6(&self, port: u16) -> SocketAddr {
        ([0xfd77, 0, 0, 0, 0, 0, 0, 2], port).into()
    }

    pub(crate) fn remote_v4(&self, port: u16) -> SocketAddr {
        ([10, 77, 0, 3], port).into()
    }

    pub(crate) fn remote_v6(&self, port: u16) -> SocketAddr {
        ([0xfd77, 0, 0, 0, 0, 0, 0, 3], port).into()
    }

    /// Runs `weft-injector redirect` in the pod.
    pub(crate) fn redirect(&self, more: &[&str]) {
        let output = self
            .inside(&self.pod_namespace, "weft-injector", 0)
            .arg("redirect")
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Like `redirect`, as an unprivileged user: returns whether it succeeded, and its output.
    pub(crate) fn redirect_as(&self, uid: u32) -> (bool, String) {
        let output = self
            .inside(&self.pod_namespace, "weft-injector", uid)
            .arg("redirect")
            .output()
            .unwrap();
        (output.status.success(), text(&output))
    }

    pub(crate) fn rules(&self) -> String {
        let output = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.pod_namespace,
                "nft",
                "list",
                "ruleset",
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn listen_as_proxy(&self, port: u16) -> Listener {
        self.listen(&self.pod_namespace, PROXY_UID, port)
    }

    pub(crate) fn listen_as_app(&self, port: u16) -> Listener {
        self.listen(&self.pod_namespace, APP_UID, port)
    }

    pub(crate) fn listen_remote(&self, port: u16) -> Listener {
        self.listen(&self.remote, 0, port)
    }

    fn listen(&self, namespace: &str, uid: u32, port: u16) -> Listener {
        let mut child = self
            .child(namespace, uid, &format!("listen {port}"))
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut listener = Listener { child, stdout };
        listener.line("LISTENING");
        listener
    }

    /// Connects from the pod and reads what the listener sends.
    pub(crate) fn connect(&self, uid: u32, to: SocketAddr) {
        assert!(
            self.try_connect(uid, to),
            "{to} cannot be reached by user {uid}"
        );
    }

    pub(crate) fn try_connect(&self, uid: u32, to: SocketAddr) -> bool {
        self.connects(&self.pod_namespace, uid, to)
    }

    pub(crate) fn connect_from_remote(&self, to: SocketAddr) {
        assert!(
            self.try_connect_from_remote(to),
            "{to} cannot be reached from outside"
        );
    }

    pub(crate) fn try_connect_from_remote(&self, to: SocketAddr) -> bool {
        self.connects(&self.remote, 0, to)
    }

    fn connects(&self, namespace: &str, uid: u32, to: SocketAddr) -> bool {
        let output = self
            .child(namespace, uid, &format!("connect {to}"))
            .output()
            .unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        said.contains("REACHED")
    }

    fn child(&self, namespace: &str, uid: u32, task: &str) -> Command {
        let mut command = self.inside(namespace, "child", uid);
        command
            .args(["--ignored", "--exact", "child", "--nocapture"])
            .env(CHILD, task)
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
        for namespace in [&self.pod_namespace, &self.remote] {
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

/// Runs this binary as a listener or client.
pub(crate) fn run_child() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    match task.split_once(' ') {
        Some(("listen", port)) => listen(port.parse().unwrap()),
        Some(("connect", to)) => connect(to.parse().unwrap()),
        _ => panic!("{CHILD}={task} is neither `listen PORT` nor `connect ADDRESS`"),
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

fn connect(to: SocketAddr) {
    let reached = TcpStream::connect_timeout(&to, TIMEOUT).and_then(|mut stream| {
        stream.set_read_timeout(Some(TIMEOUT))?;
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

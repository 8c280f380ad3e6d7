//! slowhttptest against a gateway: its connections are closed in time, and another client is served
//! meanwhile.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use weft_proxy::options::Options;

use super::ports::{self, Port};
use super::support::*;
use super::witness::Witness;
use super::{alone, soaks, tools};

/// Idle timeouts of the gateway, in place of its default of a minute.
const IDLE: Duration = Duration::from_secs(1);
/// The gateway's connection limit, where it is what closes the attack's connections.
const MAX_CONNECTIONS: usize = 64;
/// Connections beyond the limit that are still closing (`overload.rs::ENDING`), and those of the
/// other client.
const CLOSING_CONNECTIONS: usize = 64 + 2;
/// In a soak the gateway has its defaults, the longest of which is the header timeout of 75 s.
const TIMEOUT: Duration = Duration::from_secs(120);

struct Attack {
    name: &'static str,
    arguments: &'static [&'static str],
    path: &'static str,
    /// Changes the gateway's defaults, for runs of a few seconds.
    with: fn(&mut Options),
    /// Connections that may max_open open then.
    max_open: usize,
}

const ATTACKS: [Attack; 4] = [
    Attack {
        name: "slow headers",
        arguments: &["-H", "-i", "1", "-x", "24"],
        path: "/",
        with: |options| options.memory_limit = Some(MAX_CONNECTIONS as u64 * (32 << 10)),
        max_open: MAX_CONNECTIONS + CLOSING_CONNECTIONS,
    },
    Attack {
        name: "slow body",
        arguments: &["-B", "-i", "100", "-s", "100000"],
        path: "/",
        with: |options| options.body_idle = IDLE,
        max_open: 2,
    },
    Attack {
        name: "slow read",
        arguments: &["-X", "-n", "100", "-w", "16", "-y", "64", "-z", "8"],
        path: ports::LONG,
        with: |options| options.answer_idle = IDLE,
        max_open: 2,
    },
    Attack {
        name: "ranges",
        arguments: &["-R", "-a", "1", "-b", "3000"],
        path: "/",
        with: |_| {},
        max_open: 2,
    },
];

/// Returns a metric of client connections without TLS.
fn connections(port: &Port, metric: &str) -> usize {
    let line = format!(r#"{metric}{{direction="gateway",tls="none"}} "#);
    let metrics = port.metrics();
    let found = metrics.lines().find_map(|of| of.strip_prefix(&line));
    found.map_or(0, |count| count.parse().unwrap())
}

async fn run_attack(attack: &Attack) {
    let app = ports::application(Version::Http1).await;
    let port = match soaks() {
        true => ports::gateway_http(app),
        false => ports::gateway_http_with(app, attack.with),
    };
    let (count, max_open) = match soaks() {
        true => (1_000, 2),
        false => (200, attack.max_open),
    };
    let name = attack.name;
    let url = format!("http://{}{}", port.address, attack.path);
    let clients = count.to_string();
    let length = TIMEOUT.as_secs().to_string();
    let mut arguments = attack.arguments.to_vec();
    arguments.extend(["-c", &clients, "-r", &clients, "-l", &length, "-u", &url]);
    let output = tools::file(&format!("slowhttptest{}", arguments[0]));
    let Some(child) = tools::start("slowhttptest", &arguments, &[], &output) else {
        return;
    };
    let witness = Witness::start(port.address, Version::Http2);
    let begun = Instant::now();
    let ended = timeout(TIMEOUT, async {
        while connections(&port, "weft_connections_total") < count
            || connections(&port, "weft_connections_open") > max_open
        {
            sleep(Duration::from_millis(20)).await;
        }
    });
    let ended = ended.await;
    let open = connections(&port, "weft_connections_open");
    let opened = connections(&port, "weft_connections_total");
    let said = std::fs::read_to_string(&output).unwrap();
    assert!(
        ended.is_ok(),
        "{name}: {open} of {opened} connections are open\n{said}"
    );
    // Kept until here, since the end of the program closes its connections too.
    drop(child);
    let seen = witness.noticed().await;
    println!(
        "{name}: {open} of {opened} connections are open after {:.1?}; others: p99 {:.1?} of {} requests",
        begun.elapsed(),
        seen.p99,
        seen.requests
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slowhttptest_connections_are_closed_and_other_clients_are_served() {
    let _alone = alone().await;
    for attack in &ATTACKS {
        run_attack(attack).await;
    }
}

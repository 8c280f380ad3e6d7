//! slowhttptest against a gateway: what its clients hold is closed in time, and another client is
//! served meanwhile.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use weft_proxy::options::Options;

use super::ports::{self, Port};
use super::support::*;
use super::witness::Witness;
use super::{alone, soaks, tools};

/// What a gateway waits for, in place of its minute.
const IDLE: Duration = Duration::from_secs(1);
/// Connections that a gateway takes at a time, where that is what its clients meet first.
const PLACES: usize = 64;
/// Connections beyond that while they end (`overload.rs::ENDING`), and of the other client.
const MORE: usize = 64 + 2;
/// In a soak a gateway has its own times, of which the longest is that for a head, 75 s.
const LONGEST: Duration = Duration::from_secs(120);

struct Attack {
    name: &'static str,
    arguments: &'static [&'static str],
    path: &'static str,
    /// What of the gateway is otherwise than by default, where there are seconds only.
    with: fn(&mut Options),
    /// Connections that may stay then.
    stay: usize,
}

const ATTACKS: [Attack; 4] = [
    Attack {
        name: "slow headers",
        arguments: &["-H", "-i", "1", "-x", "24"],
        path: "/",
        with: |options| options.memory_limit = Some(PLACES as u64 * (32 << 10)),
        stay: PLACES + MORE,
    },
    Attack {
        name: "slow body",
        arguments: &["-B", "-i", "100", "-s", "100000"],
        path: "/",
        with: |options| options.body_idle = IDLE,
        stay: 2,
    },
    Attack {
        name: "slow read",
        arguments: &["-X", "-n", "100", "-w", "16", "-y", "64", "-z", "8"],
        path: ports::LONG,
        with: |options| options.answer_idle = IDLE,
        stay: 2,
    },
    Attack {
        name: "ranges",
        arguments: &["-R", "-a", "1", "-b", "3000"],
        path: "/",
        with: |_| {},
        stay: 2,
    },
];

/// A metric of connections of clients without TLS.
fn connections(port: &Port, metric: &str) -> usize {
    let line = format!(r#"{metric}{{direction="gateway",tls="none"}} "#);
    let metrics = port.metrics();
    let found = metrics.lines().find_map(|of| of.strip_prefix(&line));
    found.map_or(0, |count| count.parse().unwrap())
}

async fn bear(attack: &Attack) {
    let app = ports::application(Version::Http1).await;
    let port = match soaks() {
        true => ports::gateway_http(app),
        false => ports::gateway_http_with(app, attack.with),
    };
    let (count, stay) = match soaks() {
        true => (1_000, 2),
        false => (200, attack.stay),
    };
    let name = attack.name;
    let url = format!("http://{}{}", port.address, attack.path);
    let clients = count.to_string();
    let length = LONGEST.as_secs().to_string();
    let mut arguments = attack.arguments.to_vec();
    arguments.extend(["-c", &clients, "-r", &clients, "-l", &length, "-u", &url]);
    let output = tools::file(&format!("slowhttptest{}", arguments[0]));
    let Some(child) = tools::start("slowhttptest", &arguments, &output) else {
        return;
    };
    let witness = Witness::start(port.address, Version::Http2);
    let begun = Instant::now();
    let ended = timeout(LONGEST, async {
        while connections(&port, "weft_connections_total") < count
            || connections(&port, "weft_connections_open") > stay
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
    // Otherwise it was the program that closed them.
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
        bear(attack).await;
    }
}

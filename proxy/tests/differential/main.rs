//! Differential tests: an application receives what its client sent, and vice versa. The same raw
//! exchanges pass every topology of proxies, and what both ends receive is compared with what
//! was sent (`differences`).
//!
//! `WEFT_DIFFERENTIAL_EXCHANGES` is the number of generated exchanges, a million with
//! `WEFT_SOAK=1`; `WEFT_DIFFERENTIAL_SEED` is the first seed.

#![recursion_limit = "256"]
#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod application;
mod client;
mod corpus;
mod differences;
mod forward_proxy;
mod generator;
mod message;
mod paths;
mod programs;
mod smuggling;
mod topology;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use client::Client;
use message::{Exchange, ID};
use tokio::time::timeout;
use topology::Topology;

const LIMIT: Duration = Duration::from_secs(10);
/// Exchanges that are generated in a normal run.
const DEFAULT_EXCHANGES: u64 = 2_000;
const SOAK_EXCHANGES: u64 = 1_000_000;
/// The maximum of simpler exchanges that are tried to minimize a failing one.
const MAX_SIMPLER: usize = 200;

static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Sends the exchange; returns the differences.
async fn differs(topology: &Topology, client: &mut Client, sent: &Exchange) -> Vec<String> {
    let id = NEXT.fetch_add(1, Relaxed).to_string();
    let sent = sent.clone().with(ID, &id);
    let mut seen = topology.board.post(&id, sent.answer.clone());
    let answer = timeout(LIMIT, client.exchange(&sent)).await;
    let mut found = match answer {
        Ok(Ok(answer)) => differences::of_answer(topology, &sent, &answer),
        // With HTTP/2, the reset may arrive before the head was read.
        Ok(Err(_)) if sent.answer.cut => Vec::new(),
        Ok(Err(_)) if sent.answer.headless && topology.kind == topology::Kind::Direct => Vec::new(),
        Ok(Err(details)) => vec![details],
        Err(_) => vec!["no response in time".to_owned()],
    };
    let wait = if found.is_empty() {
        LIMIT
    } else {
        Duration::from_millis(200)
    };
    match timeout(wait, seen.recv()).await {
        Ok(Some(request)) => found.extend(differences::of_request(topology, &sent, &request)),
        _ => found.push("the application received no request".to_owned()),
    }
    if seen.try_recv().is_ok() {
        found.push("the application received the request twice".to_owned());
    }
    topology.board.take_down(&id);
    if !found.is_empty() {
        client.forget();
    }
    found
}

/// Returns variations of an exchange with one element less.
fn simpler(of: &Exchange) -> Vec<Exchange> {
    let mut all = Vec::new();
    let mut less = |change: &dyn Fn(&mut Exchange)| {
        let mut one = of.clone();
        change(&mut one);
        all.push(one);
    };
    if !of.body.is_empty() {
        less(&|one| one.body.truncate(one.body.len() / 2));
    }
    if !of.answer.body.is_empty() {
        less(&|one| one.answer.body.truncate(one.answer.body.len() / 2));
    }
    if of.target.len() > 1 {
        less(&|one| one.target = "/".to_owned());
    }
    for n in 0..of.trailers.len() {
        less(&|one| drop(one.trailers.remove(n)));
    }
    for n in 0..of.answer.informational.len() {
        less(&|one| drop(one.answer.informational.remove(n)));
    }
    for n in 0..of.answer.trailers.len() {
        less(&|one| drop(one.answer.trailers.remove(n)));
    }
    if of.fields.len() > 3 {
        less(&|one| one.fields.truncate(one.fields.len() / 2));
        less(&|one| drop(one.fields.drain(..one.fields.len() / 2)));
    }
    for n in 0..of.fields.len().min(20) {
        less(&|one| drop(one.fields.remove(n)));
    }
    for n in 0..of.answer.fields.len().min(20) {
        less(&|one| drop(one.answer.fields.remove(n)));
    }
    all
}

/// Minimizes an exchange that differs.
async fn minimize(topology: &Topology, client: &mut Client, found: &Exchange) -> Exchange {
    let mut minimal = found.clone();
    let mut left = MAX_SIMPLER;
    'again: loop {
        for one in simpler(&minimal) {
            if left == 0 {
                return minimal;
            }
            left -= 1;
            client.forget();
            if !differs(topology, client, &one).await.is_empty() {
                minimal = one;
                continue 'again;
            }
        }
        return minimal;
    }
}

async fn report(
    topology: &Topology,
    client: &mut Client,
    sent: &Exchange,
    found: &[String],
) -> String {
    let minimal = minimize(topology, client, sent).await;
    let differs = differs(topology, client, &minimal).await;
    let short = |text: String| text.chars().take(2_000).collect::<String>();
    format!(
        "{}\n  {}\n  minimized: {}\n  differs: {}",
        topology.name(),
        found.join("\n  "),
        short(format!("{minimal:?}")),
        differs.join("\n  ")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corpus_exchanges_pass_unchanged() {
    let mut reports = Vec::new();
    for topology in topology::all().await {
        let mut client = Client::new(topology.client, topology.front);
        for sent in corpus::exchanges(topology.client, topology.app) {
            if topology.kind == topology::Kind::Gateway && sent.target == "*" {
                // It has no path, which every rule of a gateway matches on.
                continue;
            }
            let found = differs(&topology, &mut client, &sent).await;
            if !found.is_empty() {
                let asked = format!(
                    "{} {}",
                    sent.method,
                    &sent.target[..sent.target.len().min(40)]
                );
                let fields = (sent.fields.len(), sent.answer.fields.len(), sent.framing);
                let details = found.join("\n  ");
                reports.push(format!(
                    "{}: {asked} {fields:?}\n  {details}",
                    topology.name()
                ));
            }
        }
    }
    assert!(
        reports.is_empty(),
        "{} differ:\n{}",
        reports.len(),
        reports.join("\n")
    );
}

/// h2 closes a connection after 100 empty DATA frames, and connections between proxies are shared
/// by many clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_data_frames_do_not_close_shared_connection() {
    use support::Version::Http2;
    for kind in [
        topology::Kind::Outbound,
        topology::Kind::Inbound,
        topology::Kind::Pair,
    ] {
        let topology = Topology::start(kind, Http2, Http2).await;
        let mut client = Client::new(topology.client, topology.front);
        let empty = Exchange::new("POST", "/empty").with(client::EMPTY_DATA, "1");
        let empty = empty.body(message::Framing::Chunked, "body");
        for _ in 0..4 {
            for _ in 0..60 {
                let found = differs(&topology, &mut client, &empty).await;
                assert_eq!(found, [""; 0], "{kind:?}");
            }
            client.forget();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_exchanges_pass_unchanged() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let soak = std::env::var("WEFT_SOAK").is_ok_and(|soak| soak == "1");
    let count = number("WEFT_DIFFERENTIAL_EXCHANGES").unwrap_or(if soak {
        SOAK_EXCHANGES
    } else {
        DEFAULT_EXCHANGES
    });
    let first = number("WEFT_DIFFERENTIAL_SEED").unwrap_or(1);
    let topologies = topology::all().await;
    let number_of_ways = topologies.len() as u64;
    let share = count.div_ceil(number_of_ways);
    println!(
        "WEFT_DIFFERENTIAL_SEED={first}: {share} exchanges on each of {number_of_ways} topologies"
    );
    let start = Instant::now();
    let tasks = topologies.into_iter().map(|topology| {
        tokio::spawn(async move {
            let topology = Arc::new(topology);
            let mut client = Client::new(topology.client, topology.front);
            for seed in first..first + share {
                let sent = generator::exchange(seed, topology.client, topology.app);
                let found = differs(&topology, &mut client, &sent).await;
                if !found.is_empty() {
                    let details = report(&topology, &mut client, &sent, &found).await;
                    return Some(format!("WEFT_DIFFERENTIAL_SEED={seed}: {details}"));
                }
            }
            None
        })
    });
    let reports: Vec<_> = futures::future::join_all(tasks.collect::<Vec<_>>()).await;
    let reports: Vec<_> = reports
        .into_iter()
        .filter_map(|report| report.unwrap())
        .collect();
    println!(
        "{} exchanges in {:?}, {} topologies differ",
        share * number_of_ways,
        start.elapsed(),
        reports.len()
    );
    assert!(reports.is_empty(), "{}", reports.join("\n"));
}

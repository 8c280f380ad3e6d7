//! HTTP/2 floods, which cost the proxy more than their client: each kind for a while, over a few
//! connections that are reopened when closed. Other clients must be served as before, and memory
//! must not grow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::frames::*;
use super::ports::{self, HELD, Port};
use super::support::*;
use super::witness::{Comparison, Control};
use super::{alone, soaks};

/// The interval between two batches of a connection.
const PAUSE: Duration = Duration::from_millis(5);
/// The delay before a closed client reconnects.
const RECONNECT_DELAY: Duration = Duration::from_millis(20);
/// The maximum that all connections of an attack send together.
const MAX_BYTES: u64 = 64 << 20;
/// Attempts in which the percentile may exceed its bound: of a few hundred requests it varies by
/// chance.
const MAX_ATTEMPTS: u32 = 3;
/// The timeout for the proxy to close a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const WINDOW: u32 = 65_535;

const MIB: u64 = 1 << 20;
/// Memory that a flood may use.
const SMALL: u64 = 5 * MIB;
/// Memory that held header blocks and streams may use.
const LARGE: u64 = 16 * MIB;

/// What a client sends repeatedly on one connection.
struct Attack {
    name: &'static str,
    window: u32,
    /// Appends the frames of a round; the first round of a connection is 1.
    round: fn(u32, &mut Vec<u8>),
    /// Rounds on one connection, and how many are sent per batch.
    rounds: u32,
    batch: u32,
    /// Concurrent connections.
    connections: u32,
    /// Whether the client reads responses.
    reads: bool,
    /// Whether the proxy must close the connection. If not, the cost is bounded otherwise.
    closed: bool,
    memory: u64,
}

impl Attack {
    /// An attack whose connection is closed, by a client that reads.
    const fn closed(name: &'static str, round: fn(u32, &mut Vec<u8>)) -> Self {
        Self {
            name,
            window: WINDOW,
            round,
            rounds: u32::MAX,
            batch: 32,
            connections: 4,
            reads: true,
            closed: true,
            memory: SMALL,
        }
    }

    /// An attack that may go on, with a bounded cost.
    const fn bounded(name: &'static str, round: fn(u32, &mut Vec<u8>)) -> Self {
        Self {
            closed: false,
            ..Self::closed(name, round)
        }
    }

    /// For attacks of full requests, of which a debug build handles a few thousand a second.
    const fn of_requests(self) -> Self {
        Self {
            batch: 8,
            connections: 1,
            ..self
        }
    }

    const fn unread(self) -> Self {
        Self {
            reads: false,
            ..self
        }
    }

    const fn large(self) -> Self {
        Self {
            memory: LARGE,
            ..self
        }
    }
}

/// The stream that a round opens.
fn stream(round: u32) -> u32 {
    round * 2 - 1
}

fn post(round: u32, to: &mut Vec<u8>) {
    headers(stream(round), 0, &pseudo("POST", "/"), to);
}

/// Opens a request whose body is never read, in the first round.
fn held(round: u32, to: &mut Vec<u8>) {
    if round == 1 {
        headers(1, 0, &pseudo("POST", HELD), to);
    }
}

/// A request with `count` fields that refer to one entry of the dynamic table.
fn with_fields(round: u32, name: &str, value: &[u8], count: usize, to: &mut Vec<u8>) {
    let mut block = pseudo("GET", "/");
    if round == 1 {
        remembered(name, value, &mut block);
    }
    block.resize(block.len() + count, NEWEST);
    headers(stream(round), END_STREAM, &block, to);
}

/// A value that nearly fills the dynamic table (RFC 7541, 4.1 and 4.2).
const ENTRY: [u8; 4_000] = [b'x'; 4_000];

const RAPID_RESET: &str = "rapid reset";
/// Attacks that take so long to decode in a debug build that others are delayed.
const CRUMBS: &str = "cookie crumbs within the limit";
const REFUSED_CRUMBS: &str = "cookie crumbs on all streams at once";
const HELD_CRUMBS: &str = "cookie crumbs on held streams";
const FIELD_FLOODS: [&str; 3] = [CRUMBS, REFUSED_CRUMBS, HELD_CRUMBS];
const ONE_BYTE_DATA: &str = "DATA frames of one byte";

const ATTACKS: &[Attack] = &[
    Attack::closed(RAPID_RESET, |round, to| {
        post(round, to);
        frame(RST_STREAM, 0, stream(round), &[0, 0, 0, 8], to);
    })
    .of_requests(),
    Attack::closed("resets provoked by window overflow", |round, to| {
        post(round, to);
        frame(
            WINDOW_UPDATE,
            0,
            stream(round),
            &[0x7f, 0xff, 0xff, 0xff],
            to,
        );
    })
    .of_requests(),
    Attack::closed("resets provoked by zero increment", |round, to| {
        post(round, to);
        frame(WINDOW_UPDATE, 0, stream(round), &[0; 4], to);
    }),
    Attack::closed(
        "resets provoked by body beyond content-length",
        |round, to| {
            let mut block = pseudo("POST", "/");
            literal("content-length", b"1", &mut block);
            headers(stream(round), 0, &block, to);
            frame(DATA, 0, stream(round), b"xx", to);
        },
    )
    .of_requests(),
    Attack::closed("resets provoked by DATA after END_STREAM", |round, to| {
        headers(stream(round), END_STREAM, &pseudo("GET", "/"), to);
        frame(DATA, 0, stream(round), b"x", to);
    })
    .of_requests(),
    Attack::closed("empty CONTINUATION", |round, to| match round {
        1 => frame(HEADERS, 0, 1, &pseudo("GET", "/"), to),
        _ => frame(CONTINUATION, 0, 1, b"", to),
    }),
    Attack::closed("CONTINUATION with fields", |round, to| {
        let mut block = Vec::new();
        match round {
            1 => frame(HEADERS, 0, 1, &pseudo("GET", "/"), to),
            _ => {
                literal("x-more", &[b'x'; 1_000], &mut block);
                frame(CONTINUATION, 0, 1, &block, to);
            }
        }
    }),
    Attack::bounded("SETTINGS", |_, to| frame(SETTINGS, 0, 0, b"", to)),
    Attack::bounded("SETTINGS, acknowledgements unread", |_, to| {
        frame(SETTINGS, 0, 0, b"", to)
    })
    .unread(),
    Attack::bounded("PING", |_, to| frame(PING, 0, 0, &[0; 8], to)),
    Attack::bounded("PING, acknowledgements unread", |_, to| {
        frame(PING, 0, 0, &[0; 8], to)
    })
    .unread(),
    Attack::bounded("WINDOW_UPDATE", |_, to| {
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1], to)
    }),
    Attack::bounded("PRIORITY", |round, to| {
        frame(PRIORITY, 0, stream(round), &[0, 0, 0, 0, 1], to);
    }),
    Attack::bounded("frames of unknown type", |_, to| frame(0xbe, 0, 0, b"", to)),
    Attack::closed("empty DATA", |round, to| {
        held(round, to);
        frame(DATA, 0, 1, b"", to);
    }),
    Attack::bounded(ONE_BYTE_DATA, |round, to| {
        held(round, to);
        frame(DATA, 0, 1, b"x", to);
    }),
    Attack::closed("HPACK bomb", |round, to| {
        with_fields(round, "x-bomb", &ENTRY, 12_000, to);
    })
    .of_requests()
    .large(),
    // Refused by a response, not by the codec.
    Attack::bounded("HPACK bomb within the codec's limit", |round, to| {
        with_fields(round, "x-bomb", &ENTRY, 20, to);
    })
    .of_requests()
    .large(),
    Attack::closed("cookie crumbs", |round, to| {
        with_fields(round, "cookie", b"a", 15_000, to);
    })
    .of_requests()
    .large(),
    Attack {
        // The application, in the same process, holds as many fields.
        memory: 2 * LARGE,
        ..Attack::bounded(CRUMBS, |round, to| {
            with_fields(round, "cookie", b"a", 500, to);
        })
        .of_requests()
    },
    // Within the limit of bytes, over the limit of fields. All heads have arrived before the first
    // is handled.
    Attack {
        batch: 200,
        ..Attack::bounded(REFUSED_CRUMBS, |round, to| {
            with_fields(round, "cookie", b"a", 1_500, to);
        })
        .of_requests()
        .large()
    },
    // Accepted heads, on streams whose requests are held.
    Attack {
        rounds: 200,
        batch: 200,
        memory: 2 * LARGE,
        ..Attack::bounded(HELD_CRUMBS, |round, to| {
            let mut block = pseudo("POST", HELD);
            if round == 1 {
                remembered("cookie", b"a", &mut block);
            }
            block.resize(block.len() + 500, NEWEST);
            headers(stream(round), 0, &block, to);
        })
        .of_requests()
    },
    Attack {
        window: 0,
        rounds: 200,
        // Each has a connection to the application, whose other end is in the same process.
        memory: 3 * LARGE,
        ..Attack::bounded("streams with zero window", |round, to| {
            headers(stream(round), END_STREAM, &pseudo("GET", "/"), to);
        })
        .of_requests()
    },
];

/// The counters of an attack.
#[derive(Debug, Default)]
struct Tally {
    opened: AtomicU64,
    /// Connections that the proxy closed.
    closed: AtomicU64,
    bytes: AtomicU64,
}

/// Attacks on one connection until it is closed.
async fn connection(address: SocketAddr, attack: &'static Attack, tally: &Tally) {
    let Ok(tcp) = TcpStream::connect(address).await else {
        return;
    };
    tally.opened.fetch_add(1, Relaxed);
    let (mut read, mut write) = tcp.into_split();
    let ended = async {
        if !attack.reads {
            std::future::pending::<()>().await;
        }
        let mut bytes = vec![0; 64 << 10];
        while let Ok(1..) = read.read(&mut bytes).await {}
    };
    let sending = async {
        let mut bytes = opening(attack.window);
        let mut round = 0;
        while round < attack.rounds && tally.bytes.load(Relaxed) < MAX_BYTES {
            for _ in 0..attack.batch.min(attack.rounds - round) {
                round += 1;
                (attack.round)(round, &mut bytes);
            }
            if write.write_all(&bytes).await.is_err() {
                return;
            }
            tally.bytes.fetch_add(bytes.len() as u64, Relaxed);
            bytes.clear();
            sleep(PAUSE).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        () = ended => {}
        () = sending => {}
    }
    tally.closed.fetch_add(1, Relaxed);
}

/// Resolves after `time`, and once a connection was closed where one must be.
async fn until_done(closes: bool, time: Duration, tally: &Tally) {
    sleep(time).await;
    while closes && tally.closed.load(Relaxed) == 0 {
        sleep(PAUSE).await;
    }
}

/// Runs the attack on its own thread, apart from the proxy's.
async fn run(
    address: SocketAddr,
    attack: &'static Attack,
    closes: bool,
    time: Duration,
) -> Arc<Tally> {
    let tally = Arc::<Tally>::default();
    let counted = tally.clone();
    let attacker = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(async {
            let mut connections = JoinSet::new();
            for _ in 0..attack.connections {
                let tally = counted.clone();
                connections.spawn(async move {
                    loop {
                        connection(address, attack, &tally).await;
                        sleep(RECONNECT_DELAY).await;
                    }
                });
            }
            let _ = timeout(CLOSE_TIMEOUT, until_done(closes, time, &counted)).await;
        });
    };
    tokio::task::spawn_blocking(attacker).await.unwrap();
    tally
}

/// Runs all attacks on a port. `mesh`: its clients are proxies, and the application speaks HTTP/2.
/// Resets do not close such a connection, as it carries requests of many clients. One-byte frames
/// are forwarded as they come on a shared upstream connection, which the application may close, so
/// that attack is left out.
async fn run_attacks(port: &Port, mesh: bool) {
    let time = if soaks() { 5_000 } else { 400 };
    let time = Duration::from_millis(time);
    let control = Control::start();
    // The first requests open what later ones use.
    Comparison::during(port.address, &control, sleep(time / 2)).await;
    let (quiet, ()) = Comparison::during(port.address, &control, sleep(time)).await;
    for attack in ATTACKS {
        let what = format!("{}: {}", port.name, attack.name);
        if mesh && attack.name == ONE_BYTE_DATA {
            continue;
        }
        let closes = attack.closed && !(mesh && attack.name == RAPID_RESET);
        let mut attempts = 0;
        loop {
            let (seen, tally) = Comparison::during(
                port.address,
                &control,
                run(port.address, attack, closes, time),
            )
            .await;
            println!("{what}: {seen}; {tally:?}");
            let closed = tally.closed.load(Relaxed);
            assert!(
                !closes || closed > 0,
                "{what}: no connection was closed: {tally:?}"
            );
            assert!(
                tally.bytes.load(Relaxed) > 0,
                "{what}: no bytes were sent: {tally:?}"
            );
            assert!(seen.grown() <= attack.memory, "{what}: {seen}");
            attempts += 1;
            if seen.is_fair(&quiet.attacked) || (FIELD_FLOODS.contains(&attack.name) && !soaks()) {
                break;
            }
            assert!(
                attempts < MAX_ATTEMPTS,
                "{what}: other clients are delayed: {seen}, without attack: {quiet}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_floods_on_gateway_do_not_affect_other_clients() {
    let _alone = alone().await;
    let app = ports::application(Version::Http1).await;
    run_attacks(&ports::gateway_http(app), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_floods_from_meshed_pod_do_not_affect_other_clients() {
    let _alone = alone().await;
    let app = ports::application(Version::Http2).await;
    run_attacks(&ports::inbound_mesh(app).await, true).await;
}

//! Clients that send what costs the proxy more than them: each kind of flood for a while, over a few connections that are
//! opened anew when they are closed. Others are to be served as before, and memory is not to grow.

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

/// Between what a connection sends at once.
const PAUSE: Duration = Duration::from_millis(5);
/// A client that was closed comes back after this.
const AGAIN: Duration = Duration::from_millis(20);
/// What all connections of an attack send at most.
const MOST: u64 = 64 << 20;
/// How often a percentile may be too high: of a few hundred requests it is a matter of chance, too.
const TRIES: u32 = 3;
/// The longest wait for a connection to be closed.
const LONGEST: Duration = Duration::from_secs(10);
const WINDOW: u32 = 65_535;

const MIB: u64 = 1 << 20;
/// What a flood may cost.
const SMALL: u64 = 5 * MIB;
/// What header blocks and streams that are held may cost.
const LARGE: u64 = 16 * MIB;

/// What a client sends over and over on one connection.
struct Attack {
    name: &'static str,
    window: u32,
    /// Frames of a round: the first one of a connection is 1.
    round: fn(u32, &mut Vec<u8>),
    /// Rounds on one connection, and how many are sent at once.
    rounds: u32,
    batch: u32,
    /// Connections at one time.
    connections: u32,
    /// Whether the client reads what it is answered.
    reads: bool,
    /// Whether the proxy closes the connection for it. Where it does not, what it costs is bounded.
    closed: bool,
    memory: u64,
}

impl Attack {
    /// One that is closed, and reads.
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

    /// One that goes on for as long as the client likes.
    const fn bounded(name: &'static str, round: fn(u32, &mut Vec<u8>)) -> Self {
        Self {
            closed: false,
            ..Self::closed(name, round)
        }
    }

    /// Of which a proxy that is not optimized bears a few thousand a second.
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

/// The stream that is opened in a round.
fn stream(round: u32) -> u32 {
    round * 2 - 1
}

fn post(round: u32, to: &mut Vec<u8>) {
    headers(stream(round), 0, &pseudo("POST", "/"), to);
}

/// A request whose body nobody reads, in the first round.
fn held(round: u32, to: &mut Vec<u8>) {
    if round == 1 {
        headers(1, 0, &pseudo("POST", HELD), to);
    }
}

/// A request with as many fields again that the table remembers.
fn with_fields(round: u32, name: &str, value: &[u8], count: usize, to: &mut Vec<u8>) {
    let mut block = pseudo("GET", "/");
    if round == 1 {
        remembered(name, value, &mut block);
    }
    block.resize(block.len() + count, NEWEST);
    headers(stream(round), END_STREAM, &block, to);
}

/// An entry of nearly the whole table (RFC 7541, 4.1 and 4.2).
const ENTRY: [u8; 4_000] = [b'x'; 4_000];

const RAPID_RESET: &str = "rapid reset";
/// What costs so much to read that, without optimisation, it takes the time of others.
const CRUMBS: &str = "crumbs of cookies within the limit";
const REFUSED_CRUMBS: &str = "crumbs of cookies on all streams at once";
const HELD_CRUMBS: &str = "crumbs of cookies on streams that are held";
const OF_FIELDS: [&str; 3] = [CRUMBS, REFUSED_CRUMBS, HELD_CRUMBS];
const BYTES: &str = "DATA of a byte each";

const ATTACKS: &[Attack] = &[
    Attack::closed(RAPID_RESET, |round, to| {
        post(round, to);
        frame(RST_STREAM, 0, stream(round), &[0, 0, 0, 8], to);
    })
    .of_requests(),
    Attack::closed("made to reset by a window that overflows", |round, to| {
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
    Attack::closed("made to reset by an increment of 0", |round, to| {
        post(round, to);
        frame(WINDOW_UPDATE, 0, stream(round), &[0; 4], to);
    }),
    Attack::closed("made to reset by a body beyond its length", |round, to| {
        let mut block = pseudo("POST", "/");
        literal("content-length", b"1", &mut block);
        headers(stream(round), 0, &block, to);
        frame(DATA, 0, stream(round), b"xx", to);
    })
    .of_requests(),
    Attack::closed("made to reset by a body after the end", |round, to| {
        headers(stream(round), END_STREAM, &pseudo("GET", "/"), to);
        frame(DATA, 0, stream(round), b"x", to);
    })
    .of_requests(),
    Attack::closed("CONTINUATION without a byte", |round, to| match round {
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
    Attack::bounded("PING, answers unread", |_, to| {
        frame(PING, 0, 0, &[0; 8], to)
    })
    .unread(),
    Attack::bounded("WINDOW_UPDATE", |_, to| {
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1], to)
    }),
    Attack::bounded("PRIORITY", |round, to| {
        frame(PRIORITY, 0, stream(round), &[0, 0, 0, 0, 1], to);
    }),
    Attack::bounded("frames of no known kind", |_, to| {
        frame(0xbe, 0, 0, b"", to)
    }),
    Attack::closed("DATA without a byte", |round, to| {
        held(round, to);
        frame(DATA, 0, 1, b"", to);
    }),
    Attack::bounded(BYTES, |round, to| {
        held(round, to);
        frame(DATA, 0, 1, b"x", to);
    }),
    Attack::closed("HPACK bomb", |round, to| {
        with_fields(round, "x-bomb", &ENTRY, 12_000, to);
    })
    .of_requests()
    .large(),
    // What is refused by a response, not by the codec.
    Attack::bounded("HPACK bomb that is answered", |round, to| {
        with_fields(round, "x-bomb", &ENTRY, 20, to);
    })
    .of_requests()
    .large(),
    Attack::closed("crumbs of cookies", |round, to| {
        with_fields(round, "cookie", b"a", 15_000, to);
    })
    .of_requests()
    .large(),
    Attack {
        // The application, which is in this process too, holds as many fields.
        memory: 2 * LARGE,
        ..Attack::bounded(CRUMBS, |round, to| {
            with_fields(round, "cookie", b"a", 500, to);
        })
        .of_requests()
    },
    // By bytes within the limit, and by number not. All of them are there before the first is
    // looked at.
    Attack {
        batch: 200,
        ..Attack::bounded(REFUSED_CRUMBS, |round, to| {
            with_fields(round, "cookie", b"a", 1_500, to);
        })
        .of_requests()
        .large()
    },
    // Those of a head that is taken, on streams that are held.
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
        // Each has a connection to the application, whose own end of it is in this process, too.
        memory: 3 * LARGE,
        ..Attack::bounded("streams without a window", |round, to| {
            headers(stream(round), END_STREAM, &pseudo("GET", "/"), to);
        })
        .of_requests()
    },
];

/// What came of an attack.
#[derive(Debug, Default)]
struct Tally {
    opened: AtomicU64,
    /// Connections that the proxy closed.
    closed: AtomicU64,
    bytes: AtomicU64,
}

/// One connection, until it is closed.
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
        while round < attack.rounds && tally.bytes.load(Relaxed) < MOST {
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

/// Fulfilled once the attack has gone on for long enough: until a connection was closed, where one is to be.
async fn enough(closes: bool, time: Duration, tally: &Tally) {
    sleep(time).await;
    while closes && tally.closed.load(Relaxed) == 0 {
        sleep(PAUSE).await;
    }
}

/// The attack on threads of its own, so that it does not take the proxy's.
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
                        sleep(AGAIN).await;
                    }
                });
            }
            let _ = timeout(LONGEST, enough(closes, time, &counted)).await;
        });
    };
    tokio::task::spawn_blocking(attacker).await.unwrap();
    tally
}

/// `mesh`: the clients of this port are proxies, and the application speaks HTTP/2. Resets are not counted there, since a
/// proxy's connection carries many clients' requests. Frames of a byte go on as they come, on a connection to the application
/// that clients share, and it may end that for them.
async fn bear_all(port: &Port, mesh: bool) {
    let time = if soaks() { 5_000 } else { 400 };
    let time = Duration::from_millis(time);
    let control = Control::start();
    // The first requests open what later ones use.
    Comparison::during(port.address, &control, sleep(time / 2)).await;
    let (quiet, ()) = Comparison::during(port.address, &control, sleep(time)).await;
    for attack in ATTACKS {
        let what = format!("{}: {}", port.name, attack.name);
        if mesh && attack.name == BYTES {
            continue;
        }
        let closes = attack.closed && !(mesh && attack.name == RAPID_RESET);
        let mut tries = 0;
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
                "{what}: nothing was sent: {tally:?}"
            );
            assert!(seen.grown() <= attack.memory, "{what}: {seen}");
            tries += 1;
            if seen.is_fair(&quiet.attacked) || (OF_FIELDS.contains(&attack.name) && !soaks()) {
                break;
            }
            assert!(
                tries < TRIES,
                "{what}: others waited: {seen}, in quiet times {quiet}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_floods_on_gateway_do_not_affect_other_clients() {
    let _alone = alone().await;
    let app = ports::application(Version::Http1).await;
    bear_all(&ports::gateway_http(app), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_floods_from_meshed_pod_do_not_affect_other_clients() {
    let _alone = alone().await;
    let app = ports::application(Version::Http2).await;
    bear_all(&ports::inbound_mesh(app).await, true).await;
}

//! Sends garbage to ports: the server must neither crash nor keep the connections forever.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Args)]
pub(crate) struct Options {
    /// `host:port` to connect to.
    #[arg(long)]
    connect: Vec<String>,
    /// Rounds; each sends every kind of garbage once to every port.
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// Milliseconds to wait for a response or the end of the connection.
    #[arg(long, default_value_t = 500)]
    timeout: u64,
}

/// Prints as JSON, for each address, how many connections were refused, closed, answered or left
/// open.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let mut tallies = BTreeMap::<&str, BTreeMap<&str, u32>>::new();
    let timeout = Duration::from_millis(options.timeout);
    for round in 0..options.rounds.min(1_000) {
        for kind in kinds(round) {
            let ends = options
                .connect
                .iter()
                .map(|address| throw(address, &kind, timeout));
            let ends = futures::future::join_all(ends).await;
            for (address, end) in options.connect.iter().zip(ends) {
                *tallies.entry(address).or_default().entry(end).or_default() += 1;
            }
        }
    }
    println!("{}", serde_json::to_string(&tallies)?);
    Ok(())
}

async fn throw(address: &str, garbage: &[u8], timeout: Duration) -> &'static str {
    let connected = tokio::time::timeout(Duration::from_secs(3), TcpStream::connect(address)).await;
    let Ok(Ok(mut stream)) = connected else {
        return "refused";
    };
    if stream.write_all(garbage).await.is_err() {
        return "closed";
    }
    let mut answer = [0; 1024];
    match tokio::time::timeout(timeout, stream.read(&mut answer)).await {
        Ok(Ok(0) | Err(_)) => "closed",
        Ok(Ok(_)) => "answered",
        Err(_) => "open",
    }
}

fn kinds(seed: u64) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let noise: Vec<u8> = (0..4096).map(|_| random.u8(..)).collect();
    let h2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let with = |start: &[u8], rest: &[u8]| [start, rest].concat();
    // Returns an HTTP/2 frame header: length, type, flags, stream.
    let frame = |length: u32, kind: u8, flags: u8, stream: u32| {
        let length = length.to_be_bytes();
        with(
            &[length[1], length[2], length[3], kind, flags],
            &stream.to_be_bytes(),
        )
    };
    vec![
        noise.clone(),
        Vec::new(),
        // TLS: a record over the size limit, and a ClientHello of random bytes.
        with(&[0x16, 0x03, 0x01, 0xff, 0xff], &noise),
        with(&[0x16, 0x03, 0x01, 0x01, 0x00, 0x01, 0x00, 0x00, 0xfc, 0x03, 0x03], &noise[..245]),
        // A record that is never completed.
        vec![0x16, 0x03],
        // HTTP/2: random bytes, an oversized frame, an unexpected CONTINUATION, DATA on an idle
        // stream, random bytes as headers.
        with(h2, &noise),
        with(h2, &frame(0x00ff_ffff, 0, 0, 1)),
        with(h2, &with(&frame(0, 4, 0, 0), &frame(16, 9, 4, 1))),
        with(h2, &with(&frame(0, 4, 0, 0), &with(&frame(8, 0, 1, 7), &noise[..8]))),
        with(h2, &with(&frame(0, 4, 0, 0), &with(&frame(64, 1, 5, 1), &noise[..64]))),
        // HTTP/1: no request line, an endless header, Content-Length with Transfer-Encoding, an
        // invalid Content-Length.
        b"\r\n\r\nGET\r\n\r\n".to_vec(),
        with(b"GET / HTTP/1.1\r\nx: ", &[b'a'; 200_000]),
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n".to_vec(),
        b"GET \x00\x01 HTTP/9.9\r\n\r\n".to_vec(),
    ]
}

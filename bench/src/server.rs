//! A minimal HTTP/1.1 server: every request gets the same 1 KiB.
//!
//! It detects the end of a request by its blank line and reads no bodies; the benchmark sends none.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const BODY: usize = 1024;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(long)]
    listen: SocketAddr,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("binding {}", options.listen))?;
    let answer: &'static [u8] = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {BODY}\r\n\r\n{}",
        "x".repeat(BODY)
    )
    .into_bytes()
    .leak();
    loop {
        let (stream, _) = listener.accept().await?;
        // Connection errors are ignored; the client counts failed requests.
        tokio::spawn(async move { serve(stream, answer).await.ok() });
    }
}

async fn serve(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Ok(());
        }
        filled += read;
        while let Some(end) = buffer[..filled]
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
        {
            stream.write_all(answer).await?;
            buffer.copy_within(end + 4..filled, 0);
            filled -= end + 4;
        }
        if filled == buffer.len() {
            return Err(std::io::Error::other("a request head of more than 16 KiB"));
        }
    }
}

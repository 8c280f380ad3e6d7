//! Plain TCP: an echo server, a server that speaks first, and a client for both.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Args)]
pub(crate) struct TalkOptions {
    /// `host:port` to connect to.
    #[arg(long)]
    connect: String,
    /// Wait for the server's first line before sending.
    #[arg(long)]
    listen_first: bool,
    /// Text to send.
    #[arg(long, default_value = "")]
    send: String,
    /// Bytes to send after the text, in hexadecimal.
    #[arg(long, default_value = "")]
    send_hex: String,
    /// Send the text this many times.
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 10)]
    limit: u64,
}

/// Connects, sends, closes the write side, and prints everything received.
pub(crate) async fn talk(options: TalkOptions) -> anyhow::Result<()> {
    let conversation = async {
        let mut stream = TcpStream::connect(&options.connect)
            .await
            .with_context(|| format!("cannot connect to {}", options.connect))?;
        stream.set_nodelay(true)?;
        let mut heard = Vec::new();
        if options.listen_first {
            let mut first = [0; 512];
            let length = stream
                .read(&mut first)
                .await
                .context("waiting for the greeting")?;
            anyhow::ensure!(length > 0, "closed before the greeting");
            heard.extend_from_slice(&first[..length]);
        }
        let (mut reader, mut writer) = stream.split();
        let mut bytes = options.send.repeat(options.times).into_bytes();
        bytes.extend(from_hex(&options.send_hex)?);
        let speak = async {
            writer.write_all(&bytes).await?;
            writer.shutdown().await
        };
        let (spoken, read) = tokio::join!(speak, reader.read_to_end(&mut heard));
        spoken.context("sending")?;
        read.context("reading")?;
        anyhow::Ok(heard)
    };
    let heard = tokio::time::timeout(Duration::from_secs(options.limit), conversation)
        .await
        .with_context(|| format!("the conversation did not end within {} s", options.limit))??;
    print!("{}", String::from_utf8_lossy(&heard));
    Ok(())
}

fn from_hex(text: &str) -> anyhow::Result<Vec<u8>> {
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair)?;
        anyhow::ensure!(pair.len() == 2, "--send-hex: a digit is missing");
        u8::from_str_radix(pair, 16).with_context(|| format!("--send-hex: {pair:?}"))
    };
    text.as_bytes().chunks(2).map(byte).collect()
}

/// Echoes everything received on every connection.
pub(crate) async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        });
    }
}

/// Sends a greeting, then echoes everything received.
pub(crate) async fn greet(listener: TcpListener, greeting: String) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let greeting = greeting.clone();
        tokio::spawn(async move {
            if stream.write_all(greeting.as_bytes()).await.is_err() {
                return;
            }
            let (mut reader, mut writer) = stream.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        });
    }
}

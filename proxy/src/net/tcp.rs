//! Forwards bytes between two streams, both ways, with each side's end.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};

use super::copy::copy_bidirectional;
use super::io::ObservedReads;
use crate::drain::DrainWatch;

/// During the drain a connection that was silent for this long counts as idle.
const IDLE: Duration = Duration::from_secs(2);

/// TCP keepalive: shorter than the time after which networks are known to forget connections.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(120))
    .with_interval(Duration::from_secs(30))
    .with_retries(4);

/// Has the kernel find out when the peer of a silent connection is gone, which nothing else does.
/// Accepted connections inherit it from the listening socket.
pub fn set_keepalive(socket: SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_keepalive(&KEEPALIVE)
}

/// Bytes forwarded to and from the upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BytesTransferred {
    pub up: u64,
    pub down: u64,
}

/// Forwards bytes until both sides have ended; during the drain, until the connection is idle; if
/// its listener is removed, for as long as `closing` allows. `idle`: at most this long, or twice as
/// long, without a byte. `cut`: resolves when the connection is to end at once.
pub async fn forward<A, B>(
    client: A,
    upstream: B,
    closing: &DrainWatch,
    idle: Option<Duration>,
    cut: impl Future<Output = ()>,
) -> (BytesTransferred, io::Result<()>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let count = |to: &AtomicU64, length: usize| {
        to.fetch_add(length as u64, Relaxed);
    };
    let mut client = ObservedReads::new(client, |length| count(&up, length));
    let mut upstream = ObservedReads::new(upstream, |length| count(&down, length));
    let total = || BytesTransferred {
        up: up.load(Relaxed),
        down: down.load(Relaxed),
    };
    let silent = async |limit| {
        loop {
            let before = total();
            tokio::time::sleep(limit).await;
            if total() == before {
                return;
            }
        }
    };
    let draining = async {
        closing.draining().await;
        silent(IDLE).await;
    };
    let unused = async {
        match idle {
            Some(limit) => silent(limit).await,
            None => std::future::pending().await,
        }
    };
    let copied = tokio::select! {
        copied = copy_bidirectional(&mut client, &mut upstream) => copied,
        () = draining => Ok(()),
        () = unused => Ok(()),
        () = closing.deadline() => Ok(()),
        () = cut => Ok(()),
    };
    (total(), copied)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::drain::Shutdown;

    #[tokio::test]
    async fn forward_copies_bytes_and_half_closes_in_both_directions() {
        let (mut client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        let closing = Shutdown::new().watch();
        let ends = async {
            client.write_all(b"ask").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = String::new();
            server.read_to_string(&mut asked).await.unwrap();
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            (asked, answer)
        };
        let ((passed, result), (asked, answer)) =
            tokio::join!(forward(near, far, &closing, None, pending()), ends);
        assert!(result.is_ok());
        assert_eq!((asked.as_str(), answer.as_str()), ("ask", "answer"));
        assert_eq!(passed, BytesTransferred { up: 3, down: 6 });
    }

    #[tokio::test(start_paused = true)]
    async fn idle_tcp_connection_does_not_delay_drain() {
        let (_client, near) = duplex(64);
        let (far, _server) = duplex(64);
        let shutdown = Shutdown::new();
        shutdown.token().cancel();
        assert!(
            forward(near, far, &shutdown.watch(), None, pending())
                .await
                .1
                .is_ok()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn tcp_connection_outlives_its_listener_by_drain_time() {
        let (mut client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        let (listener, bound) = (CancellationToken::new(), Duration::from_secs(25));
        listener.cancel();
        let closing = Shutdown::new().watch_with(listener, bound);
        let begun = Instant::now();
        let passed =
            tokio::spawn(async move { forward(near, far, &closing, None, pending()).await });
        tokio::time::sleep(bound - Duration::from_secs(1)).await;
        client.write_all(b"late").await.unwrap();
        let mut late = [0; 4];
        server.read_exact(&mut late).await.unwrap();
        let (passed, ended) = passed.await.unwrap();
        assert!(ended.is_ok());
        assert_eq!(passed, BytesTransferred { up: 4, down: 0 });
        assert_eq!(begun.elapsed(), bound);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_tcp_connection_is_closed_after_timeout() {
        let (mut client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        let closing = Shutdown::new().watch();
        let (hour, begun) = (Duration::from_secs(3_600), Instant::now());
        let passed =
            tokio::spawn(async move { forward(near, far, &closing, Some(hour), pending()).await });
        tokio::time::sleep(hour / 2).await;
        client.write_all(b"b").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        assert!(passed.await.unwrap().1.is_ok());
        assert_eq!(begun.elapsed(), hour * 2);
    }
}

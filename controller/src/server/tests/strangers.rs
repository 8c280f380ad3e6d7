//! Connections that are silent, anonymous or garbage.

use super::*;

/// A proxy's stream, from the beginning of its connection to its first update.
async fn honest(server: &Server) -> Duration {
    let begun = Instant::now();
    let channel = server.channel(Some(server.shown("bob"))).await;
    let mut stream = subscribe(channel).await.unwrap();
    assert_eq!(ask(&mut stream).await, [BOB]);
    begun.elapsed()
}

#[tokio::test]
async fn silent_connections_do_not_delay_proxies() {
    let server = server().await;
    let mut held = Vec::new();
    for turn in 0..1100_u16 {
        // From one source, then from many.
        let source = Ipv4Addr::new(127, 0, 1, (turn.saturating_sub(300) / 4) as u8);
        held.push(connect(source, server.address).await.unwrap());
    }
    let took = honest(&server).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(server.rejected.count("grpc", "source_limit") >= 300 - 64);
}

#[tokio::test]
async fn connections_without_a_certificate_do_not_delay_proxies() {
    let server = server().await;
    let open = server.channel(Some(server.shown("bob"))).await;
    let mut open = subscribe(open).await.unwrap();
    let mut held = Vec::new();
    for turn in 0..560_u16 {
        let source = Ipv4Addr::new(127, 0, 1, (turn / 16) as u8);
        held.push(server.tls_from(source, None).await.unwrap());
    }
    let took = honest(&server).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(ask(&mut open).await, [BOB]);
    let from_one = Ipv4Addr::new(127, 0, 2, 1);
    for _ in 0..20 {
        held.push(server.tls_from(from_one, None).await.unwrap());
    }
    until(|| server.rejected.count("grpc", "source_limit") >= 4).await;
    assert!(server.rejected.count("grpc", "limit") > 0);
    // The one that gave way first is closed.
    let mut rest = Vec::new();
    let closed = timeout(BOUND, held[0].read_to_end(&mut rest));
    assert!(closed.await.is_ok());
}

#[tokio::test]
async fn garbage_is_closed_and_counted() {
    let server = server().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        b"\x16\x03\x01\xff\xff\xff\xff\xff",
        &[0u8; 4096],
    ] {
        let mut tcp = TcpStream::connect(server.address).await.unwrap();
        tcp.write_all(garbage).await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // Closed, or reset because of what was not read.
        let _ = tcp.read_to_end(&mut answer).await;
    }
    until(|| server.metrics.handshakes(HandshakeResult::Failed) == 3).await;
    // Not HTTP/2 inside good TLS: this connection ends, others do not.
    let mut io = server.tls(Some(server.shown("bob"))).await.unwrap();
    io.write_all(&[0xff; 64]).await.unwrap();
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    // A silent connection delays no other.
    let _silent = TcpStream::connect(server.address).await.unwrap();
    let channel = server.channel(Some(server.shown("bob"))).await;
    let mut stream = subscribe(channel).await.unwrap();
    assert_eq!(ask(&mut stream).await, [BOB]);
}

//! Connections whose bytes are not read: decided on before any byte passes, and again when the
//! policies change.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_ir::{Mode, Protocol};
use weft_testkit::pki::Pki;
use weft_testkit::upstream::{Speaks, Upstream};

const BYTES: &[u8] = b"\x00\x01 neither HTTP nor TLS";
/// The beginning of a ClientHello of the application's own.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00";

/// Sends bytes; returns what comes back until the connection is closed.
async fn until_closed(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(bytes).await;
    let mut back = Vec::new();
    let _ = within_a_second(stream.read_to_end(&mut back)).await;
    back
}

async fn echoes(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    let mut back = vec![0; bytes.len()];
    within_a_second(stream.read_exact(&mut back)).await.unwrap();
    assert_eq!(back, bytes);
}

fn denied(pod: &Pod) -> u64 {
    let series = r#"weft_opaque_connections_total{direction="inbound",result="failed",error_type="authorization_denied"}"#;
    count(&pod.metrics(), series)
}

#[tokio::test]
async fn denied_mesh_connection_does_not_reach_application() {
    let path = to_requests(&[prefix("/")]);
    for (policies, allowed) in [
        (Vec::new(), true),
        (
            vec![policy("p", Allow, vec![from(&[account("frontend")])])],
            true,
        ),
        (
            vec![policy("p", Allow, vec![from(&[account("other")])])],
            false,
        ),
        (deny_all(), false),
        // Conditions that bytes cannot meet.
        (vec![policy("p", Allow, vec![path.clone()])], false),
        (vec![policy("p", Deny, vec![path.clone()])], false),
        (vec![policy("p", Audit, vec![path])], true),
    ] {
        let app = Upstream::start("v1", Speaks::Echo).await.unwrap();
        let pair = Proxies::before(app.address(), Protocol::Tcp);
        enforce(&pair.server, policies.clone());
        let mut client = pair.connect().await;
        if allowed {
            echoes(&mut client, BYTES).await;
        } else {
            assert_eq!(until_closed(&mut client, BYTES).await, b"", "{policies:?}");
            let counted = (app.connections(), denied(&pair.server));
            assert_eq!(counted, (0, 1), "{policies:?}");
        }
    }
}

#[tokio::test]
async fn denied_plain_connection_passes_no_byte_either_way() {
    for (speaks, bytes) in [
        (Speaks::Echo, BYTES),
        (Speaks::Echo, CLIENT_HELLO),
        // The server speaks first: it is connected to before the client has said anything.
        (Speaks::First, b""),
    ] {
        let app = Upstream::start("v1", speaks).await.unwrap();
        let pod = Pod::start(&Pki::new().unwrap(), "reviews", Mode::Permissive);
        let back = pod.inbound(app.address());
        enforce(
            &pod,
            vec![policy("p", Allow, vec![from(&[account("frontend")])])],
        );
        let mut client = TcpStream::connect(back).await.unwrap();
        assert_eq!(until_closed(&mut client, bytes).await, b"", "{speaks:?}");
        assert_eq!(denied(&pod), 1);
        enforce(
            &pod,
            vec![policy("p", Allow, vec![from(&[network("127.0.0.0/8")])])],
        );
        let mut client = TcpStream::connect(back).await.unwrap();
        if speaks == Speaks::First {
            let mut hello = [0; 6];
            within_a_second(client.read_exact(&mut hello))
                .await
                .unwrap();
            assert_eq!(&hello, b"hello\n");
        } else {
            echoes(&mut client, bytes).await;
        }
    }
}

#[tokio::test]
async fn open_connection_is_closed_when_denied() {
    let app = Upstream::start("v1", Speaks::Echo).await.unwrap();
    let pair = Proxies::before(app.address(), Protocol::Tcp);
    // Opened under no policy, and under one.
    for before in [Vec::new(), vec![policy("p", Allow, any())]] {
        enforce(&pair.server, before);
        let mut client = pair.connect().await;
        echoes(&mut client, BYTES).await;
        // A change that does not concern it.
        enforce(
            &pair.server,
            vec![policy("p", Allow, vec![from(&[account("frontend")])])],
        );
        echoes(&mut client, BYTES).await;
        let refused = denied(&pair.server);
        enforce(
            &pair.server,
            vec![policy("p", Allow, vec![from(&[account("other")])])],
        );
        let mut rest = Vec::new();
        let _ = within_a_second(client.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"");
        assert_eq!(denied(&pair.server), refused + 1);
    }
    let metrics = pair.server.metrics();
    assert_eq!(count(&metrics, &series("inbound", "denied", "")), 2);
}

//! Sessions of datagrams: decided on by the client's address, and again when the policies change.

use super::*;
use crate::support::gateway::{GatewayPod, at, free_port, port};
use tokio::net::UdpSocket;
use weft_ir::{ConnectionRule, Protocol, RouteId, RouteKind, Serving, StreamListener};

/// Returns true if the application's echo comes back.
async fn echoes(client: &UdpSocket, wait: Duration) -> bool {
    client.send(b"ask").await.unwrap();
    let mut back = [0; 8];
    let received = tokio::time::timeout(wait, client.recv(&mut back)).await;
    received.is_ok_and(|length| length.unwrap() == 3)
}

#[tokio::test]
async fn session_begins_and_lasts_only_while_permitted() {
    let app = UdpSocket::bind(ANY).await.unwrap();
    let address = app.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 8];
        while let Ok((length, from)) = app.recv_from(&mut buffer).await {
            let _ = app.send_to(&buffer[..length], from).await;
        }
    });
    let route = RouteId {
        kind: RouteKind::Udp,
        namespace: "shop".into(),
        name: "dns".into(),
    };
    let rule = ConnectionRule {
        route,
        index: 0,
        name: None,
        backends: vec![to("v1", 1)],
    };
    let listener = StreamListener {
        name: "dns".into(),
        rule: Some(rule),
    };
    let gateway = GatewayPod::start();
    let number = free_port();
    gateway.tell(vec![
        endpoints("v1", Protocol::Detect, &[unmeshed(address)]),
        port(number, Serving::Udp(listener)),
    ]);
    let enforce = |text: &str| {
        let of = of(vec![policy("p", Allow, vec![from(&[network(text)])])]);
        gateway.tell(vec![encode::authorizations(&Authorizations {
            listeners: vec![((number, "dns".to_owned()), of)],
            ..Authorizations::default()
        })]);
    };
    let client = UdpSocket::bind(ANY).await.unwrap();
    client.connect(at(number)).await.unwrap();
    let (long, short) = (Duration::from_secs(5), Duration::from_millis(100));
    assert!(echoes(&client, long).await);
    enforce("127.0.0.0/8");
    assert!(echoes(&client, long).await);
    enforce("10.0.0.0/8");
    let ended = async {
        while !gateway.metrics().contains("weft_udp_sessions_open 0") {
            tokio::task::yield_now().await;
        }
    };
    within_a_second(ended).await;
    assert!(!echoes(&client, short).await);
    let dropped = r#"weft_udp_dropped_total{error_type="authorization_denied"}"#;
    assert_eq!(count(&gateway.metrics(), dropped), 1);
    enforce("127.0.0.0/8");
    assert!(echoes(&client, long).await);
}

//! Streams of gRPC that are under way when the policies change.

use super::*;
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use tokio::net::TcpStream;
use weft_ir::Protocol;

/// An application that answers each call with a stream, and echoes what comes on it.
async fn serve(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let mut body = request.into_body();
            let head = Response::builder().header("content-type", "application/grpc");
            let mut out = respond
                .send_response(head.body(()).unwrap(), false)
                .unwrap();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                if out.send_data(data, false).is_err() {
                    return;
                }
            }
        });
    }
}

/// Begins a call through the pair.
async fn call(front: std::net::SocketAddr) -> (SendStream<Bytes>, RecvStream) {
    let stream = TcpStream::connect(front).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = Request::post("http://reviews/t.S/Both")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (response, out) = sender
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let response = within_a_second(response).await.unwrap();
    assert_eq!(response.status(), 200);
    // Keeps the connection open.
    tokio::spawn(async move {
        let _sender = sender;
        std::future::pending::<()>().await;
    });
    (out, response.into_body())
}

async fn echoed(out: &mut SendStream<Bytes>, body: &mut RecvStream) -> bool {
    out.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false)
        .unwrap();
    let mut seen = 0;
    while seen < 6 {
        match within_a_second(body.data()).await {
            Some(Ok(data)) => {
                body.flow_control().release_capacity(data.len()).unwrap();
                seen += data.len();
            }
            _ => return false,
        }
    }
    true
}

#[tokio::test]
async fn stream_ends_with_permission_denied_when_denied() {
    let pair = Proxies::serving(Protocol::Grpc, serve).await;
    let both = |action| policy("p", action, vec![to_requests(&[prefix("/t.S/Both")])]);
    for policies in [Vec::new(), vec![policy("p", Allow, any())]] {
        enforce(&pair.server, policies);
        let (mut out, mut body) = call(pair.front).await;
        assert!(echoed(&mut out, &mut body).await);
        enforce(&pair.server, vec![both(Allow)]);
        assert!(echoed(&mut out, &mut body).await, "still allowed");
        enforce(&pair.server, vec![both(Deny)]);
        assert!(!echoed(&mut out, &mut body).await);
        let trailers = within_a_second(body.trailers()).await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "7", "{trailers:?}");
    }
}

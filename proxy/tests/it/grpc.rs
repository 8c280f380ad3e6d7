//! gRPC through a pair of proxies, frame by frame: bidirectional streams, trailers, cancellation.

use std::sync::Arc;
use std::time::Duration;

use crate::support::*;
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use weft_ir::Protocol;

async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, future).await.expect("in time")
}

/// Frames a gRPC message: uncompressed flag, length, payload.
fn message(text: &str) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(text.len()).unwrap());
    bytes.put_slice(text.as_bytes());
    bytes.freeze()
}

fn grpc(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static(status),
    )])
}

fn head() -> Response<()> {
    let head = Response::builder().header("content-type", "application/grpc");
    head.body(()).unwrap()
}

/// The next message of a stream, which may come in several frames.
async fn next(body: &mut RecvStream) -> Option<String> {
    let mut seen = Vec::new();
    loop {
        let data = body.data().await?.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        seen.extend_from_slice(&data);
        if let Some(length) = seen.get(1..5) {
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if seen.len() == 5 + length {
                return Some(String::from_utf8(seen.split_off(5)).unwrap());
            }
        }
    }
}

/// Reset reasons that the application received for calls that were cancelled.
type ResetReasons = mpsc::UnboundedSender<Option<Reason>>;

async fn serve(stream: TcpStream, more: Arc<Notify>, seen: ResetReasons) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(call) = connection.accept().await {
        let Ok((request, respond)) = call else { return };
        tokio::spawn(answer(request, respond, more.clone(), seen.clone()));
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    more: Arc<Notify>,
    seen: ResetReasons,
) {
    let (parts, mut body) = request.into_parts();
    assert_eq!(parts.headers["te"], "trailers");
    match parts.uri.path() {
        "/t.S/Both" => {
            let mut out = respond.send_response(head(), false).unwrap();
            while let Some(said) = next(&mut body).await {
                out.send_data(message(&format!("{said}!")), false).unwrap();
            }
            out.send_trailers(grpc("0")).unwrap();
        }
        "/t.S/Count" => {
            let mut count = 0;
            while next(&mut body).await.is_some() {
                count += 1;
            }
            let mut out = respond.send_response(head(), false).unwrap();
            out.send_data(message(&count.to_string()), false).unwrap();
            out.send_trailers(grpc("0")).unwrap();
        }
        "/t.S/Watch" => {
            let mut out = respond.send_response(head(), false).unwrap();
            for n in 0..3 {
                more.notified().await;
                out.send_data(message(&n.to_string()), false).unwrap();
            }
            out.send_trailers(grpc("7")).unwrap();
        }
        "/t.S/Refuse" => {
            let mut head = head();
            head.headers_mut().extend(grpc("5"));
            let headers = head.headers_mut();
            headers.insert("grpc-message", "no such%20thing".parse().unwrap());
            headers.insert("grpc-status-details-bin", "AAEC".parse().unwrap());
            respond.send_response(head, true).unwrap();
        }
        _ => {
            let mut out = respond.send_response(head(), false).unwrap();
            out.send_data(message("begun"), false).unwrap();
            let reason = std::future::poll_fn(|cx| out.poll_reset(cx)).await;
            let _ = seen.send(reason.ok());
        }
    }
}

struct Calls {
    proxies: Proxies,
    client: SendRequest<Bytes>,
    more: Arc<Notify>,
    seen: mpsc::UnboundedReceiver<Option<Reason>>,
}

impl Calls {
    async fn start() -> Self {
        let more = Arc::new(Notify::new());
        let (tell, seen) = mpsc::unbounded_channel();
        let gate = more.clone();
        let proxies = Proxies::serving(Protocol::Grpc, move |stream| {
            serve(stream, gate.clone(), tell.clone())
        })
        .await;
        let (client, connection) = h2::client::handshake(proxies.connect().await)
            .await
            .unwrap();
        tokio::spawn(connection);
        Self {
            proxies,
            client,
            more,
            seen,
        }
    }

    async fn call(&mut self, method: &str) -> (ResponseFuture, SendStream<Bytes>) {
        let request = Request::post(format!("http://reviews/t.S/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let mut client = self.client.clone().ready().await.unwrap();
        client
            .send_request(request.body(()).unwrap(), false)
            .unwrap()
    }

    async fn status(&self, method: &str, status: &str) {
        let call = [
            r#"direction="outbound""#.to_owned(),
            format!(r#"grpc_status="{status}""#),
            r#"protocol="grpc""#.to_owned(),
        ];
        for _ in 0..200 {
            let metrics = self.proxies.client.metrics();
            let counted = |line: &str| {
                line.starts_with("weft_requests_total") && call.iter().all(|l| line.contains(l))
            };
            if metrics.lines().any(counted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{method} {status}: {}", self.proxies.client.metrics());
    }
}

async fn trailers(body: &mut RecvStream) -> HeaderMap {
    assert!(soon(body.data()).await.is_none(), "no more messages");
    soon(body.trailers()).await.unwrap().expect("trailers")
}

#[tokio::test]
async fn grpc_bidirectional_stream_is_not_buffered() {
    let mut calls = Calls::start().await;
    let (response, mut out) = calls.call("Both").await;
    // The response begins before any byte of the request body is sent.
    let mut body = soon(response).await.unwrap().into_body();
    for said in ["one", "two", "three"] {
        out.send_data(message(said), false).unwrap();
        assert_eq!(soon(next(&mut body)).await.unwrap(), format!("{said}!"));
    }
    out.send_data(Bytes::new(), true).unwrap();
    assert_eq!(trailers(&mut body).await["grpc-status"], "0");
    calls.proxies.encrypted();
    calls.status("Both", "0").await;
}

#[tokio::test]
async fn grpc_client_and_server_streams_complete() {
    let mut calls = Calls::start().await;
    let (response, mut out) = calls.call("Count").await;
    for n in 0..5 {
        out.send_data(message(&n.to_string()), n == 4).unwrap();
    }
    let mut body = soon(response).await.unwrap().into_body();
    assert_eq!(soon(next(&mut body)).await.unwrap(), "5");
    assert_eq!(trailers(&mut body).await["grpc-status"], "0");

    let (response, mut out) = calls.call("Watch").await;
    out.send_data(message("?"), true).unwrap();
    let mut body = soon(response).await.unwrap().into_body();
    for n in 0..3 {
        // The application waits for the notification, so each message must arrive separately.
        calls.more.notify_one();
        assert_eq!(soon(next(&mut body)).await.unwrap(), n.to_string());
    }
    assert_eq!(trailers(&mut body).await["grpc-status"], "7");
    calls.status("Watch", "7").await;
}

#[tokio::test]
async fn grpc_trailers_only_response_is_preserved() {
    let mut calls = Calls::start().await;
    let (response, mut out) = calls.call("Refuse").await;
    out.send_data(message("?"), true).unwrap();
    let response = soon(response).await.unwrap();
    for (name, value) in [
        ("grpc-status", "5"),
        ("grpc-message", "no such%20thing"),
        ("grpc-status-details-bin", "AAEC"),
    ] {
        assert_eq!(response.headers()[name], value);
    }
    assert!(response.headers().get("weft-error").is_none());
    calls.status("Refuse", "5").await;
}

#[tokio::test]
async fn grpc_cancellation_reaches_application_alone() {
    let mut calls = Calls::start().await;
    let (other, mut other_out) = calls.call("Both").await;
    let mut other = soon(other).await.unwrap().into_body();

    let (response, mut out) = calls.call("Hang").await;
    out.send_data(message("?"), false).unwrap();
    let mut body = soon(response).await.unwrap().into_body();
    assert_eq!(soon(next(&mut body)).await.unwrap(), "begun");
    out.send_reset(Reason::CANCEL);
    assert_eq!(soon(calls.seen.recv()).await.unwrap(), Some(Reason::CANCEL));

    other_out.send_data(message("still here"), true).unwrap();
    assert_eq!(soon(next(&mut other)).await.unwrap(), "still here!");
    assert_eq!(trailers(&mut other).await["grpc-status"], "0");
}

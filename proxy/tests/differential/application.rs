//! Applications that record the requests they receive and respond as the board says.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::message::*;
use super::support::{ANY, Version};
use super::wire::{Wire, put, put_body};

pub async fn start(version: Version, board: Arc<Board>) -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let board = board.clone();
            tokio::spawn(async move {
                match version {
                    Version::Http1 => http1(Wire::new(stream), &board).await,
                    Version::Http2 => http2(stream, board).await,
                }
            });
        }
    });
    address
}

/// Serves until the peer closes, or a response closes the connection.
async fn http1(mut wire: Wire, board: &Board) {
    while let Ok(Some(head)) = wire.head().await {
        let mut line = head.line.split(' ');
        let (method, target) = (line.next().unwrap_or(""), line.next().unwrap_or(""));
        let host = values(&head.fields, "host").map(String::from_utf8_lossy);
        let mut seen = SeenRequest {
            method: method.to_owned(),
            target: target.to_owned(),
            host: host.collect::<Vec<_>>().join(","),
            fields: head.fields.clone(),
            body: Vec::new(),
            trailers: Vec::new(),
            problem: head.problem.clone(),
        };
        let Some((answer, saw)) = board.find(&head.fields) else {
            return;
        };
        if values(&head.fields, "expect").next().is_some() {
            let _ = wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        if answer.early && send(&mut wire, method, &answer).await.is_err() {
            return;
        }
        match wire.body(&head, Framing::Absent, &mut seen.body).await {
            Ok(trailers) => seen.trailers = trailers,
            Err(error) => seen.problem = Some(error.to_string()),
        }
        let broken = seen.problem.is_some();
        let _ = saw.send(seen);
        if !answer.early && send(&mut wire, method, &answer).await.is_err() {
            return;
        }
        if broken || answer.cut || answer.headless || answer.framing == Framing::Close {
            return;
        }
    }
}

async fn send(wire: &mut Wire, method: &str, answer: &Answer) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for (status, fields) in &answer.informational {
        bytes.extend_from_slice(format!("HTTP/1.1 {status} Interim\r\n").as_bytes());
        put(fields, &mut bytes);
        bytes.extend_from_slice(b"\r\n");
    }
    if answer.headless {
        return wire.send(&bytes).await;
    }
    bytes.extend_from_slice(format!("HTTP/1.1 {} Answer\r\n", answer.status).as_bytes());
    put(&answer.all_fields(), &mut bytes);
    if answer.framing == Framing::Chunked {
        bytes.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    if method != "HEAD" {
        let mut body = Vec::new();
        put_body(answer.framing, &answer.body, &answer.trailers, &mut body);
        if answer.cut {
            body.truncate(body.len() / 2);
        }
        bytes.extend_from_slice(&body);
    }
    wire.send(&bytes).await
}

async fn http2(stream: TcpStream, board: Arc<Board>) {
    let mut builder = h2::server::Builder::new();
    builder.max_header_list_size(256 << 10);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else {
        return;
    };
    let pings = Arc::new(Pings(Mutex::new(connection.ping_pong().unwrap())));
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (board, pings) = (board.clone(), pings.clone());
        tokio::spawn(async move { http2_request(request, respond, &board, &pings).await });
    }
}

/// The pings of one connection.
struct Pings(Mutex<h2::PingPong>);

impl Pings {
    /// Waits until what was sent before has been written: a reset discards what has not. A ping
    /// leaves together with all frames that wait.
    async fn written(&self) {
        // An error means that the connection has ended.
        let _ = self.0.lock().await.ping(h2::Ping::opaque()).await;
    }
}

pub fn to_fields(headers: &http::HeaderMap) -> Fields {
    let fields = headers.iter();
    fields
        .map(|(name, value)| field(name.as_str(), value))
        .collect()
}

pub fn to_headers(fields: &Fields) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            http::HeaderValue::from_bytes(value).unwrap(),
        );
    }
    headers
}

async fn http2_request(
    request: http::Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    board: &Board,
    pings: &Pings,
) {
    let (head, mut body) = request.into_parts();
    let fields = to_fields(&head.headers);
    let Some((answer, saw)) = board.find(&fields) else {
        return;
    };
    let host = values(&fields, "host").next().map(String::from_utf8_lossy);
    let authority = head.uri.authority().map(|of| of.as_str());
    let mut seen = SeenRequest {
        method: head.method.to_string(),
        target: head
            .uri
            .path_and_query()
            .map_or("", |of| of.as_str())
            .to_owned(),
        host: authority.map_or(host.unwrap_or_default().into_owned(), str::to_owned),
        fields,
        body: Vec::new(),
        trailers: Vec::new(),
        problem: None,
    };
    if answer.early {
        send_http2(&seen.method, &answer, &mut respond, pings).await;
    }
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                let _ = body.flow_control().release_capacity(data.len());
                seen.body.extend_from_slice(&data);
            }
            Err(error) => {
                seen.problem = Some(error.to_string());
                break;
            }
        }
    }
    if let Ok(Some(trailers)) = body.trailers().await {
        seen.trailers = to_fields(&trailers);
    }
    let method = seen.method.clone();
    let _ = saw.send(seen);
    if !answer.early {
        send_http2(&method, &answer, &mut respond, pings).await;
    }
}

async fn send_http2(
    method: &str,
    answer: &Answer,
    respond: &mut SendResponse<Bytes>,
    pings: &Pings,
) {
    for (status, fields) in &answer.informational {
        let mut response = http::Response::new(());
        *response.status_mut() = http::StatusCode::from_u16(*status).unwrap();
        *response.headers_mut() = to_headers(fields);
        let _ = respond.send_informational(response);
    }
    if answer.headless {
        pings.written().await;
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        return;
    }
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap();
    *response.headers_mut() = to_headers(&answer.all_fields());
    let none = method == "HEAD" || (answer.body.is_empty() && answer.trailers.is_empty());
    let Ok(mut stream) = respond.send_response(response, none && !answer.cut) else {
        return;
    };
    if answer.cut {
        let half = Bytes::copy_from_slice(&answer.body[..answer.body.len() / 2]);
        let _ = stream.send_data(half, false);
        pings.written().await;
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
    } else if !none {
        let trailers = &answer.trailers;
        let body = Bytes::copy_from_slice(&answer.body);
        if !body.is_empty() {
            let _ = stream.send_data(body, trailers.is_empty());
        }
        if !trailers.is_empty() {
            let _ = stream.send_trailers(to_headers(trailers));
        }
    }
}

//! Clients that send an exchange exactly as specified and return the response. Connections are
//! reused for the next exchange.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::application::{to_fields, to_headers};
use super::message::*;
use super::support::Version;
use super::wire::{Wire, put, put_body};

/// An HTTP/2 request with this field has an empty DATA frame before its body.
pub const EMPTY_DATA: &str = "x-empty-data";

pub enum Client {
    Http1(SocketAddr, Option<Wire>),
    Http2(SocketAddr, Option<SendRequest<Bytes>>),
}

fn failed(error: impl std::fmt::Display) -> String {
    format!("no response: {error}")
}

impl Client {
    pub fn new(version: Version, address: SocketAddr) -> Self {
        match version {
            Version::Http1 => Self::Http1(address, None),
            Version::Http2 => Self::Http2(address, None),
        }
    }

    /// Makes the next exchange use a new connection.
    pub fn forget(&mut self) {
        match self {
            Self::Http1(_, wire) => *wire = None,
            Self::Http2(_, sender) => *sender = None,
        }
    }

    pub async fn exchange(&mut self, sent: &Exchange) -> Result<SeenAnswer, String> {
        match self {
            Self::Http1(address, kept) => {
                let mut wire = match kept.take() {
                    Some(wire) => wire,
                    None => Wire::new(TcpStream::connect(*address).await.map_err(failed)?),
                };
                let (seen, again) = http1(&mut wire, sent).await.map_err(failed)?;
                *kept = again.then_some(wire);
                Ok(seen)
            }
            Self::Http2(address, kept) => {
                let sender = match kept.take() {
                    Some(sender) => sender,
                    None => connect(*address).await.map_err(failed)?,
                };
                let seen = http2(sender.clone(), sent).await.map_err(failed)?;
                *kept = Some(sender);
                Ok(seen)
            }
        }
    }
}

/// Returns the bytes of the request: head and body.
pub fn render(sent: &Exchange) -> (Vec<u8>, Vec<u8>) {
    let mut head = format!("{} {} HTTP/1.1\r\n", sent.method, sent.target).into_bytes();
    let mut fields = vec![field("Host", &sent.host)];
    fields.extend(framed(&sent.fields, sent.framing, &sent.body));
    if sent.framing == Framing::Chunked {
        fields.push(field("Transfer-Encoding", "chunked"));
    }
    put(&fields, &mut head);
    head.extend_from_slice(b"\r\n");
    let mut body = Vec::new();
    put_body(sent.framing, &sent.body, &sent.trailers, &mut body);
    (head, body)
}

/// Returns the response, and whether the connection can be reused.
async fn http1(wire: &mut Wire, sent: &Exchange) -> io::Result<(SeenAnswer, bool)> {
    let (mut head, body) = render(sent);
    let waits = values(&sent.fields, "expect").next().is_some();
    if !waits {
        head.extend_from_slice(&body);
    }
    wire.send(&head).await?;
    let mut seen = SeenAnswer {
        informational: Vec::new(),
        status: 0,
        fields: Vec::new(),
        body: Vec::new(),
        trailers: Vec::new(),
        whole: false,
    };
    let head = loop {
        let head = wire.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if let Some(problem) = head.problem {
            return Err(io::Error::other(problem));
        }
        let status = head
            .line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(head.line.clone()))?;
        if !(100..200).contains(&status) || status == 101 {
            seen.status = status;
            break head;
        }
        if status == 100 && waits {
            wire.stream.write_all(&body).await?;
        }
        seen.informational.push((status, head.fields));
    };
    let bodiless = sent.method == "HEAD" || matches!(seen.status, 101 | 204 | 304);
    let read = match bodiless {
        true => Ok(Vec::new()),
        false => wire.body(&head, Framing::Close, &mut seen.body).await,
    };
    seen.whole = read.is_ok();
    seen.trailers = read.unwrap_or_default();
    let lengths = ["content-length", "transfer-encoding"];
    let is_framed = lengths
        .iter()
        .any(|name| values(&head.fields, name).next().is_some());
    let close = values(&head.fields, "connection").any(|value| value == b"close");
    seen.fields = head.fields;
    let again = seen.whole && (is_framed || bodiless) && !close;
    Ok((seen, again))
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Bytes>, String> {
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let mut builder = h2::client::Builder::new();
    builder.max_header_list_size(256 << 10);
    let (sender, connection) = builder.handshake(stream).await.map_err(failed)?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn http2(sender: SendRequest<Bytes>, sent: &Exchange) -> Result<SeenAnswer, h2::Error> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = Some(sent.host.parse().unwrap());
    parts.path_and_query = Some(sent.target.parse().unwrap());
    let mut request = http::Request::new(());
    *request.method_mut() = sent.method.parse().unwrap();
    *request.uri_mut() = http::Uri::from_parts(parts).unwrap();
    let fields = framed(&sent.fields, sent.framing, &sent.body);
    *request.headers_mut() = to_headers(&fields);
    let none = sent.body.is_empty() && sent.trailers.is_empty();
    let mut sender = sender.ready().await?;
    let (mut answer, mut stream) = sender.send_request(request, none)?;
    if !none {
        let body = Bytes::copy_from_slice(&sent.body);
        let last = sent.trailers.is_empty();
        // An early response may have closed the stream.
        if values(&sent.fields, EMPTY_DATA).next().is_some() {
            let _ = stream.send_data(Bytes::new(), false);
        }
        if !body.is_empty() {
            let _ = stream.send_data(body, last);
        }
        if !last {
            let _ = stream.send_trailers(to_headers(&sent.trailers));
        }
    }
    let mut informational = Vec::new();
    let answer = std::future::poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(interim))) = answer.poll_informational(cx) {
            let fields = to_fields(interim.headers());
            informational.push((interim.status().as_u16(), fields));
        }
        Pin::new(&mut answer).poll(cx)
    })
    .await?;
    let (head, mut body) = answer.into_parts();
    let mut seen = SeenAnswer {
        informational,
        status: head.status.as_u16(),
        fields: to_fields(&head.headers),
        body: Vec::new(),
        trailers: Vec::new(),
        whole: true,
    };
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                let _ = body.flow_control().release_capacity(data.len());
                seen.body.extend_from_slice(&data);
            }
            Err(_) => {
                seen.whole = false;
                return Ok(seen);
            }
        }
    }
    match body.trailers().await {
        Ok(trailers) => seen.trailers = to_fields(&trailers.unwrap_or_default()),
        Err(_) => seen.whole = false,
    }
    Ok(seen)
}

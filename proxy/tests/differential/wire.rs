//! A strict HTTP/1.1 parser: it accepts nothing that two parsers could read differently.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::message::*;

pub struct Wire {
    pub stream: TcpStream,
    buffer: BytesMut,
}

/// A message head, with what a strict parser rejects.
#[derive(Debug)]
pub struct Head {
    pub line: String,
    pub fields: Fields,
    pub problem: Option<String>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    async fn more(&mut self) -> io::Result<()> {
        self.buffer.reserve(8 << 10);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Reads a head. Returns `None` if the peer closed between messages.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        let end = loop {
            let found = self.buffer.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = found {
                break end;
            }
            match self.more().await {
                Err(_) if self.buffer.is_empty() => return Ok(None),
                other => other?,
            }
        };
        let head = self.buffer.split_to(end + 4);
        Ok(Some(parse(&head[..end])))
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = self.buffer.split_to(end).to_vec();
                self.buffer.advance(2);
                return Ok(line);
            }
            self.more().await?;
        }
    }

    pub async fn exactly(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if self.buffer.is_empty() {
                self.more().await?;
            }
            let part = left.min(self.buffer.len());
            body.extend_from_slice(&self.buffer.split_to(part));
            left -= part;
        }
        Ok(())
    }

    pub async fn until_end(&mut self, body: &mut Vec<u8>) -> io::Result<()> {
        loop {
            body.extend_from_slice(&self.buffer.split());
            match self.more().await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            }
        }
    }

    /// Reads a chunked body; returns the trailers.
    pub async fn chunked(&mut self, body: &mut Vec<u8>) -> io::Result<Fields> {
        loop {
            let line = self.line().await?;
            let digits = std::str::from_utf8(&line).ok();
            let length = digits.and_then(|digits| usize::from_str_radix(digits, 16).ok());
            let length = length.ok_or_else(|| io::Error::other("invalid chunk length"))?;
            if length == 0 {
                break;
            }
            self.exactly(length, body).await?;
            if !self.line().await?.is_empty() {
                return Err(io::Error::other("a chunk longer than its length"));
            }
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(trailers);
            }
            trailers.push(split(&line).map_err(io::Error::other)?);
        }
    }

    /// Reads the body of a message; `absent` is its framing where the head has none.
    pub async fn body(
        &mut self,
        head: &Head,
        absent: Framing,
        body: &mut Vec<u8>,
    ) -> io::Result<Fields> {
        let length = values(&head.fields, "content-length").next();
        if values(&head.fields, "transfer-encoding").next().is_some() {
            self.chunked(body).await
        } else if let Some(length) = length {
            let length = std::str::from_utf8(length)
                .ok()
                .and_then(|l| l.parse().ok());
            let length = length.ok_or_else(|| io::Error::other("invalid content-length"))?;
            self.exactly(length, body).await?;
            Ok(Vec::new())
        } else {
            if absent == Framing::Close {
                self.until_end(body).await?;
            }
            Ok(Vec::new())
        }
    }
}

fn split(line: &[u8]) -> Result<(String, Vec<u8>), String> {
    let colon = line.iter().position(|b| *b == b':').ok_or("no colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    if name.is_empty() || !name.iter().all(token) {
        return Err(format!(
            "invalid field name: {:?}",
            String::from_utf8_lossy(name)
        ));
    }
    if value.iter().any(|b| matches!(b, 0..=8 | 10..=31 | 127)) {
        return Err(format!(
            "invalid field value: {:?}",
            String::from_utf8_lossy(value)
        ));
    }
    let name = String::from_utf8_lossy(name).to_lowercase();
    Ok((name, value.trim_ascii().to_vec()))
}

fn parse(head: &[u8]) -> Head {
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    let mut problem = None;
    let mut fields = Vec::new();
    for line in &lines[1..] {
        match split(line) {
            Ok(field) => fields.push(field),
            Err(reason) => problem = Some(reason),
        }
    }
    let lengths: Vec<_> = values(&fields, "content-length").collect();
    let codings: Vec<_> = values(&fields, "transfer-encoding").collect();
    let digits = |length: &&[u8]| !length.is_empty() && length.iter().all(u8::is_ascii_digit);
    if lengths.len() > 1 || !lengths.iter().all(digits) {
        problem = Some(format!("Content-Length: {lengths:?}"));
    }
    if !codings.is_empty() && (codings.len() > 1 || codings[0] != b"chunked") {
        problem = Some(format!("Transfer-Encoding: {codings:?}"));
    }
    if !codings.is_empty() && !lengths.is_empty() {
        problem = Some("Content-Length beside Transfer-Encoding".to_owned());
    }
    let line = String::from_utf8_lossy(lines[0]).into_owned();
    if line.contains(['\r', '\n', '\0']) {
        problem = Some(format!("first line: {line:?}"));
    }
    Head {
        line,
        fields,
        problem,
    }
}

/// Appends fields as lines.
pub fn put(fields: &Fields, to: &mut Vec<u8>) {
    for (name, value) in fields {
        to.extend_from_slice(name.as_bytes());
        to.extend_from_slice(b": ");
        to.extend_from_slice(value);
        to.extend_from_slice(b"\r\n");
    }
}

/// Appends a body with this framing, in chunks of varying length.
pub fn put_body(framing: Framing, body: &[u8], trailers: &Fields, to: &mut Vec<u8>) {
    if framing != Framing::Chunked {
        to.extend_from_slice(body);
        return;
    }
    let mut rest = body;
    let mut length = 1;
    while !rest.is_empty() {
        let (chunk, more) = rest.split_at(rest.len().min(length));
        to.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        to.extend_from_slice(chunk);
        to.extend_from_slice(b"\r\n");
        rest = more;
        length = length * 7 + 1;
    }
    to.extend_from_slice(b"0\r\n");
    put(trailers, to);
    to.extend_from_slice(b"\r\n");
}

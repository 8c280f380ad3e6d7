//! Detects the protocol of the first bytes of a connection.
//!
//! [`detect`] is pure; [`Prefixed`] returns the bytes that were peeked at to the next reader.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use rustls::server::{Acceptor, ClientHello};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::io::fill_from;

/// The protocol that the first bytes show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    Http1,
    /// By prior knowledge (RFC 9113, 3.3).
    Http2,
    Tls,
    Opaque,
    /// Too few bytes to tell.
    Incomplete,
}

/// RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A longer word is no method.
const MAX_METHOD: usize = 24;
/// A ClientHello is at most a handshake message of one or a few records.
const MAX_CLIENT_HELLO: usize = 64 << 10;
/// RFC 8446, 5.1: the most that a record holds without encryption.
const MAX_RECORD: usize = 1 << 14;
/// RFC 9113, 4.2: the longest frame that may be sent to a peer whose SETTINGS are not known yet.
const MAX_FIRST_FRAME: u32 = 1 << 14;

pub fn detect(bytes: &[u8]) -> Detected {
    let Some(&first) = bytes.first() else {
        return Detected::Incomplete;
    };
    if first == 0x16 {
        return detect_tls(bytes);
    }
    let length = bytes.len().min(PREFACE.len());
    if bytes[..length] == PREFACE[..length] {
        // `PRI` is no method of HTTP/1.1.
        return if length < PREFACE.len() {
            Detected::Incomplete
        } else {
            Detected::Http2
        };
    }
    detect_http1(bytes)
}

/// A record of a handshake, of any version (RFC 8446, 5.1).
fn detect_tls(bytes: &[u8]) -> Detected {
    match (bytes.get(1), bytes.get(2), bytes.get(5)) {
        (Some(major), _, _) if *major != 3 => Detected::Opaque,
        (_, Some(minor), _) if *minor > 4 => Detected::Opaque,
        (_, _, Some(kind)) if *kind != 1 => Detected::Opaque,
        (_, _, Some(_)) => Detected::Tls,
        _ => Detected::Incomplete,
    }
}

/// An upper-case word, a space, and what can begin a request target (RFC 9112, 3.2).
fn detect_http1(bytes: &[u8]) -> Detected {
    let word = bytes
        .iter()
        .take_while(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_'))
        .count();
    if word == 0 || word > MAX_METHOD {
        return Detected::Opaque;
    }
    match (bytes.get(word), bytes.get(word + 1)) {
        (None, _) | (Some(b' '), None) => Detected::Incomplete,
        (Some(b' '), Some(b'/' | b'*' | b'h' | b'H')) => Detected::Http1,
        (Some(b' '), Some(_)) if &bytes[..word] == b"CONNECT" => Detected::Http1,
        _ => Detected::Opaque,
    }
}

/// Returns true if a request of HTTP/1.1 is for a forward proxy: its target is a whole URI (RFC
/// 9112, 3.2.2), or the authority of CONNECT (RFC 9112, 3.2.3).
pub fn is_for_forward_proxy(bytes: &[u8]) -> bool {
    let mut words = bytes.splitn(2, |b| *b == b' ');
    let (method, target) = (words.next(), words.next());
    method == Some(&b"CONNECT"[..]) || matches!(target, Some([b'h' | b'H', ..]))
}

/// Returns true if a server's first bytes are the SETTINGS frame of HTTP/2 (RFC 9113, 3.4 and 6.5),
/// which it sends to every connection, and then waits for the client all the same.
pub fn is_server_preface(bytes: &[u8]) -> bool {
    let Some(frame) = bytes.first_chunk::<9>() else {
        return false;
    };
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
    length <= MAX_FIRST_FRAME && length.is_multiple_of(6) && frame[3..] == [4, 0, 0, 0, 0, 0]
}

/// Returns the application protocols that a ClientHello offers; `None` while it is incomplete.
/// Errors if it is no ClientHello.
pub fn alpn_protocols(bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, rustls::Error> {
    client_hello(bytes, |hello| {
        let names = hello.alpn();
        names.map_or_else(Vec::new, |names| names.map(<[u8]>::to_vec).collect())
    })
}

/// Returns the server name of a ClientHello, if it has one; `None` while it is incomplete. Errors
/// if it is no ClientHello.
pub fn server_name(bytes: &[u8]) -> Result<Option<Option<String>>, rustls::Error> {
    client_hello(bytes, |hello| hello.server_name().map(str::to_owned))
}

/// Calls `read` with a ClientHello, in however many records it came.
fn client_hello<T>(
    bytes: &[u8],
    read: impl Fn(&ClientHello<'_>) -> T,
) -> Result<Option<T>, rustls::Error> {
    if bytes.len() > MAX_CLIENT_HELLO {
        return Err(rustls::Error::General(
            "the ClientHello is too long".to_owned(),
        ));
    }
    if is_incomplete(bytes) {
        return Ok(None);
    }
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    loop {
        let taken = acceptor.read_tls(&mut rest).unwrap_or(0);
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(Some(read(&accepted.client_hello()))),
            Ok(None) if taken == 0 => return Ok(None),
            Ok(None) => {}
            Err((error, _)) => return Err(error),
        }
    }
}

/// Returns true if more of a ClientHello is to come, by the lengths in its records and in itself
/// (RFC 8446, 4 and 5.1). Until then it is not parsed: one that comes byte by byte would be parsed
/// with each of them.
fn is_incomplete(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut message = 0;
    let mut length = [0; 4];
    while let Some((head, after)) = rest.split_first_chunk::<5>() {
        let record = usize::from(u16::from_be_bytes([head[3], head[4]]));
        // What is no such record is for the parser to refuse.
        if head[0] != 0x16 || head[1] != 3 || !(1..=MAX_RECORD).contains(&record) {
            return false;
        }
        let Some((content, after)) = after.split_at_checked(record) else {
            return true;
        };
        for (place, byte) in content
            .iter()
            .take(4_usize.saturating_sub(message))
            .enumerate()
        {
            length[message + place] = *byte;
        }
        message += record;
        // The first byte of the four is the kind of the message.
        length[0] = 0;
        if message >= 4 && message - 4 >= u32::from_be_bytes(length) as usize {
            return false;
        }
        rest = after;
    }
    true
}

/// A stream whose first bytes have been peeked at.
#[derive(Debug)]
pub struct Prefixed<S> {
    prefix: BytesMut,
    stream: S,
}

impl<S> Prefixed<S> {
    pub fn new(stream: S) -> Self {
        Self {
            prefix: BytesMut::new(),
            stream,
        }
    }

    /// Returns what has been peeked at so far, and will be read first.
    pub fn peeked(&self) -> &[u8] {
        &self.prefix
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Drops the first `length` bytes that were peeked at.
    pub fn consume(&mut self, length: usize) {
        self.prefix.advance(length.min(self.prefix.len()));
    }
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// Peeks at more bytes. Returns 0 if the peer sends no more. Cancel safe.
    pub async fn peek(&mut self) -> io::Result<usize> {
        self.prefix.reserve(2 << 10);
        self.stream.read_buf(&mut self.prefix).await
    }

    /// Peeks until the protocol is known, or the peer sends no more. Cancel safe.
    pub async fn detect(&mut self) -> io::Result<Detected> {
        loop {
            match detect(&self.prefix) {
                Detected::Incomplete => {
                    if self.peek().await? == 0 {
                        return Ok(Detected::Opaque);
                    }
                }
                protocol => return Ok(protocol),
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        fill_from(&mut this.prefix, buffer);
        Poll::Ready(Ok(()))
    }
}

crate::net::io::delegate_writes!(Prefixed<S>, stream);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_server_preface_is_recognized() {
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        assert!(is_server_preface(settings) && is_server_preface(b"\0\0\0\x04\0\0\0\0\0"));
        for other in [
            &settings[..8],
            b"220 mail ESMTP",
            b"\0\0\0\x04\x01\0\0\0\0",
            // Longer than any first frame.
            b"M h\x04\0\0\0\0\0",
        ] {
            assert!(!is_server_preface(other), "{other:?}");
        }
    }

    #[test]
    fn protocol_is_detected_from_first_bytes() {
        for (bytes, protocol) in [
            (&b""[..], Detected::Incomplete),
            (b"G", Detected::Incomplete),
            (b"GET ", Detected::Incomplete),
            (b"GET /", Detected::Http1),
            (b"OPTIONS * HTTP/1.1", Detected::Http1),
            (b"GET http://a/", Detected::Http1),
            (b"CONNECT a:1", Detected::Http1),
            (b"PROPFIND /x", Detected::Http1),
            (b"PRI * HTTP/2.0\r\n", Detected::Incomplete),
            (PREFACE, Detected::Http2),
            (b"PRI * HTTP/3", Detected::Http1),
            (b"PR", Detected::Incomplete),
            (b"EHLO mail.example", Detected::Opaque),
            (b"GET key", Detected::Opaque),
            (b"get /", Detected::Opaque),
            (b"\x16\x03\x01\x02\x00", Detected::Incomplete),
            (b"\x16\x03\x01\x02\x00\x01", Detected::Tls),
            (b"\x16\x03\x01\x02\x00\x02", Detected::Opaque),
            (b"\x16\x05", Detected::Opaque),
            (b"\x00\x00", Detected::Opaque),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Detected::Opaque),
        ] {
            assert_eq!(
                detect(bytes),
                protocol,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn forward_proxy_requests_are_recognized() {
        for of in [
            &b"GET http://a/"[..],
            b"CONNECT a:1 HTTP/1.1",
            b"POST HTTP://a",
        ] {
            assert!(
                is_for_forward_proxy(of),
                "{:?}",
                of.escape_ascii().to_string()
            );
        }
        for other in [
            &b""[..],
            b"GET",
            b"GET ",
            b"GET /http://a",
            b"OPTIONS *",
            b"CONNECTED /",
        ] {
            assert!(
                !is_for_forward_proxy(other),
                "{:?}",
                other.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn malformed_client_hello_is_refused_and_partial_one_is_incomplete() {
        assert!(alpn_protocols(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff").is_err());
        assert!(
            alpn_protocols(b"\x16\x03\x01\x02\x00\x01\x00")
                .unwrap()
                .is_none()
        );
        assert!(alpn_protocols(&vec![0x16; MAX_CLIENT_HELLO + 1]).is_err());
    }

    #[tokio::test]
    async fn peeked_bytes_are_read_again() {
        let stream = &b"GET / HTTP/1.1\r\n"[..];
        let mut stream = Prefixed::new(stream);
        assert_eq!(stream.detect().await.unwrap(), Detected::Http1);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET / HTTP/1.1\r\n");
    }
}

//! Which protocol the first bytes of a connection are of.
//!
//! [`guess`] is pure; [`Prefixed`] gives the bytes that were looked at back to whoever reads next.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use rustls::server::{Acceptor, ClientHello};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::streams::give_out;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    Http1,
    /// By prior knowledge (RFC 9113, 3.3).
    Http2,
    Tls,
    Opaque,
    /// Too few bytes to tell.
    More,
}

/// RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longer words are no methods.
const MAX_METHOD: usize = 24;
/// A ClientHello is at most a handshake message of one or a few records.
const MAX_HELLO: usize = 64 << 10;
/// RFC 8446, 5.1: the most that a record holds without encryption.
const MAX_RECORD: usize = 1 << 14;

pub fn guess(bytes: &[u8]) -> Guess {
    let Some(&first) = bytes.first() else {
        return Guess::More;
    };
    if first == 0x16 {
        return guess_tls(bytes);
    }
    let length = bytes.len().min(PREFACE.len());
    if bytes[..length] == PREFACE[..length] {
        // `PRI` is no method of HTTP/1.1.
        return if length < PREFACE.len() {
            Guess::More
        } else {
            Guess::Http2
        };
    }
    guess_http1(bytes)
}

/// A record of a handshake, of any version (RFC 8446, 5.1).
fn guess_tls(bytes: &[u8]) -> Guess {
    match (bytes.get(1), bytes.get(2), bytes.get(5)) {
        (Some(major), _, _) if *major != 3 => Guess::Opaque,
        (_, Some(minor), _) if *minor > 4 => Guess::Opaque,
        (_, _, Some(kind)) if *kind != 1 => Guess::Opaque,
        (_, _, Some(_)) => Guess::Tls,
        _ => Guess::More,
    }
}

/// An upper-case word, a space, and what can begin a request target (RFC 9112, 3.2).
fn guess_http1(bytes: &[u8]) -> Guess {
    let word = bytes
        .iter()
        .take_while(|b| b.is_ascii_uppercase() || matches!(b, b'-' | b'_'))
        .count();
    if word == 0 || word > MAX_METHOD {
        return Guess::Opaque;
    }
    match (bytes.get(word), bytes.get(word + 1)) {
        (None, _) | (Some(b' '), None) => Guess::More,
        (Some(b' '), Some(b'/' | b'*' | b'h' | b'H')) => Guess::Http1,
        (Some(b' '), Some(_)) if &bytes[..word] == b"CONNECT" => Guess::Http1,
        _ => Guess::Opaque,
    }
}

/// Whether what begins like HTTP/1.1 is for a forward proxy: its target is a whole URI (RFC 9112, 3.2.2), or the authority of
/// CONNECT (RFC 9112, 3.2.3).
pub fn is_for_forward_proxy(bytes: &[u8]) -> bool {
    let mut words = bytes.splitn(2, |b| *b == b' ');
    let (method, target) = (words.next(), words.next());
    method == Some(&b"CONNECT"[..]) || matches!(target, Some([b'h' | b'H', ..]))
}

/// Whether a server's first bytes are HTTP/2's, a SETTINGS frame of its own (RFC 9113, 3.4 and 6.5): it sends them to every
/// connection, and then waits for the client all the same.
pub fn is_server_preface(bytes: &[u8]) -> bool {
    let Some(frame) = bytes.first_chunk::<9>() else {
        return false;
    };
    let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
    length.is_multiple_of(6) && frame[3..] == [4, 0, 0, 0, 0, 0]
}

/// The application protocols that a ClientHello offers; `None` while it is not complete. Errors: it is none.
pub fn offered(bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, rustls::Error> {
    client_hello(bytes, |hello| {
        let names = hello.alpn();
        names.map_or_else(Vec::new, |names| names.map(<[u8]>::to_vec).collect())
    })
}

/// The server that a ClientHello names, if it names one; `None` while it is not complete. Errors: it is none.
pub fn server_name(bytes: &[u8]) -> Result<Option<Option<String>>, rustls::Error> {
    client_hello(bytes, |hello| hello.server_name().map(str::to_owned))
}

/// What `read` finds in a ClientHello, in however many records it is.
fn client_hello<T>(
    bytes: &[u8],
    read: impl Fn(&ClientHello<'_>) -> T,
) -> Result<Option<T>, rustls::Error> {
    if bytes.len() > MAX_HELLO {
        return Err(rustls::Error::General(
            "the ClientHello is too long".to_owned(),
        ));
    }
    if is_part(bytes) {
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

/// Whether more is to come of a ClientHello, by the lengths in its records and in itself (RFC 8446, 4 and 5.1). As long as
/// that is so it is not parsed: one that comes byte by byte would be parsed with each of them.
fn is_part(bytes: &[u8]) -> bool {
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

/// A stream whose first bytes have been looked at.
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

    /// What has been looked at so far, and will be read first.
    pub fn seen(&self) -> &[u8] {
        &self.prefix
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Drops the first `length` bytes that were looked at: whoever reads next does not get them.
    pub fn take_off(&mut self, length: usize) {
        self.prefix.advance(length.min(self.prefix.len()));
    }
}

impl<S: AsyncRead + Unpin> Prefixed<S> {
    /// Looks at more bytes; 0: the peer sends no more. Safe to cancel.
    pub async fn look(&mut self) -> io::Result<usize> {
        self.prefix.reserve(2 << 10);
        self.stream.read_buf(&mut self.prefix).await
    }

    /// Looks until the bytes tell, or the peer sends no more. Safe to cancel.
    pub async fn detect(&mut self) -> io::Result<Guess> {
        loop {
            match guess(&self.prefix) {
                Guess::More => {
                    if self.look().await? == 0 {
                        return Ok(Guess::Opaque);
                    }
                }
                told => return Ok(told),
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
        give_out(&mut this.prefix, buffer);
        Poll::Ready(Ok(()))
    }
}

crate::streams::writes_through!(Prefixed<S>, stream);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_frame_of_an_http2_server() {
        let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        assert!(is_server_preface(settings) && is_server_preface(b"\0\0\0\x04\0\0\0\0\0"));
        for other in [&settings[..8], b"220 mail ESMTP", b"\0\0\0\x04\x01\0\0\0\0"] {
            assert!(!is_server_preface(other), "{other:?}");
        }
    }

    #[test]
    fn first_bytes_tell() {
        for (bytes, told) in [
            (&b""[..], Guess::More),
            (b"G", Guess::More),
            (b"GET ", Guess::More),
            (b"GET /", Guess::Http1),
            (b"OPTIONS * HTTP/1.1", Guess::Http1),
            (b"GET http://a/", Guess::Http1),
            (b"CONNECT a:1", Guess::Http1),
            (b"PROPFIND /x", Guess::Http1),
            (b"PRI * HTTP/2.0\r\n", Guess::More),
            (PREFACE, Guess::Http2),
            (b"PRI * HTTP/3", Guess::Http1),
            (b"PR", Guess::More),
            (b"EHLO mail.example", Guess::Opaque),
            (b"GET key", Guess::Opaque),
            (b"get /", Guess::Opaque),
            (b"\x16\x03\x01\x02\x00", Guess::More),
            (b"\x16\x03\x01\x02\x00\x01", Guess::Tls),
            (b"\x16\x03\x01\x02\x00\x02", Guess::Opaque),
            (b"\x16\x05", Guess::Opaque),
            (b"\x00\x00", Guess::Opaque),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Guess::Opaque),
        ] {
            assert_eq!(guess(bytes), told, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn requests_for_forward_proxies() {
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
    fn what_is_no_client_hello_is_refused_and_a_part_of_one_waits() {
        assert!(offered(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff").is_err());
        assert!(offered(b"\x16\x03\x01\x02\x00\x01\x00").unwrap().is_none());
        assert!(offered(&vec![0x16; MAX_HELLO + 1]).is_err());
    }

    #[tokio::test]
    async fn what_was_seen_is_read_again() {
        let stream = &b"GET / HTTP/1.1\r\n"[..];
        let mut stream = Prefixed::new(stream);
        assert_eq!(stream.detect().await.unwrap(), Guess::Http1);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET / HTTP/1.1\r\n");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>) {
            let _ = guess(&bytes);
            let _ = offered(&bytes);
        }
    }
}

//! Bodies as they come from a connection, of either version of HTTP.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

use super::BodyError;

/// A body that comes from a client or from an endpoint.
pub struct Incoming(Kind);

enum Kind {
    Http1(hyper::body::Incoming),
    Http2(StreamBody),
}

/// The receiving side of a stream of HTTP/2.
struct StreamBody {
    stream: RecvStream,
    /// What is left of the length in the head, which h2 compares with what comes.
    left: Option<u64>,
    data_ended: bool,
    from: Peer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Client,
    Server,
}

impl Incoming {
    /// The body of a request that came with these headers.
    pub fn of_request(stream: RecvStream, headers: &HeaderMap) -> Self {
        Self(Kind::Http2(StreamBody::new(stream, headers, Peer::Client)))
    }

    /// The body of a response that came with these headers.
    pub fn of_response(stream: RecvStream, headers: &HeaderMap) -> Self {
        Self(Kind::Http2(StreamBody::new(stream, headers, Peer::Server)))
    }

    /// Reads the body to its end, and its trailers. Returns `None` once it has more than `most`
    /// bytes. Errors if it breaks off.
    pub async fn whole(
        mut self,
        most: usize,
    ) -> Result<Option<(Bytes, Option<HeaderMap>)>, BodyError> {
        let (mut whole, mut trailers) = (BytesMut::new(), None);
        while let Some(frame) = self.frame().await {
            match frame?.into_data() {
                Ok(data) if whole.len() + data.len() > most => return Ok(None),
                Ok(data) => whole.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Ok(Some((whole.freeze(), trailers)))
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self(Kind::Http1(body))
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Http1),
            Kind::Http2(body) => body.poll_frame(cx).map_err(BodyError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Http1(body) => body.is_end_stream(),
            Kind::Http2(body) => body.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Http1(body) => body.size_hint(),
            Kind::Http2(body) => body
                .left
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl StreamBody {
    fn new(stream: RecvStream, headers: &HeaderMap, from: Peer) -> Self {
        let length = content_length(headers);
        let none = || stream.is_end_stream().then_some(0);
        Self {
            left: length.or_else(none),
            stream,
            data_ended: false,
            from,
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The sender may go on: what is read here has been asked for.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    let left = |left: u64| left.saturating_sub(data.len() as u64);
                    self.left = self.left.map(left);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.broken(error)),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => self.broken(error),
        })
    }

    /// A server whose response is whole may end a request so that is not (RFC 9113, 8.1). What a
    /// client resets is incomplete.
    fn broken(&self, error: h2::Error) -> Option<Result<Frame<Bytes>, h2::Error>> {
        let is_whole = self.from == Peer::Server
            && self.left.is_none_or(|left| left == 0)
            && error.is_reset()
            && error.reason() == Some(h2::Reason::NO_ERROR);
        (!is_whole).then_some(Err(error))
    }
}

/// The length of the body, if the headers have it, and once or the same each time.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all(CONTENT_LENGTH).iter();
    let lengths = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut lengths = lengths.map(|length| parse_length(length.trim_ascii()));
    let first = lengths.next()??;
    lengths.all(|length| length == Some(first)).then_some(first)
}

fn parse_length(digits: &[u8]) -> Option<u64> {
    // `parse` takes a sign.
    let is_number = digits.iter().all(u8::is_ascii_digit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_length_is_one_number() {
        for (values, length) in [
            (&[][..], None),
            (&["5"], Some(5)),
            (&["5", "5, 5"], Some(5)),
            (&["5", "6"], None),
            (&["+5"], None),
            (&["5", ""], None),
            (&["99999999999999999999"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_LENGTH, value.parse().unwrap());
            }
            assert_eq!(content_length(&headers), length, "{values:?}");
        }
    }
}

//! Informational responses (1xx) on their way to the client, which are forwarded as they come.
//!
//! Source: RFC 9110, 15.2 (a proxy forwards them, except to a client of HTTP/1.0 and those that it
//! has asked for itself) and 10.1.1 (100 Continue); RFC 9113, 8.6 (there is no 101 in HTTP/2).

use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, EXPECT, HeaderMap, UPGRADE};
use http::{Request, StatusCode, Version};

use super::exchange::Exchange;
use super::{delivery, headers};
use crate::upstream::{Endpoint, Informational, SendObserver};
use crate::wire::{MAX_HEAD, OVERHEAD};

/// Informational responses of one exchange; further ones are dropped.
const MAX_RESPONSES: usize = 16;
/// Bytes of all their heads together, counted as HTTP/2 does (RFC 9113, 6.5.2).
const MAX_BYTES: usize = MAX_HEAD;

/// The informational responses of one exchange that wait to be sent.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Vec<Informational>,
    /// Of the whole exchange.
    count: usize,
    bytes: usize,
}

impl Queue {
    /// Returns false if the exchange has had as many as it may: this one is dropped.
    pub(super) fn push(&mut self, response: Informational) -> bool {
        let fields = response.headers().iter();
        let bytes = fields.map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD);
        let bytes = self.bytes + bytes.sum::<usize>();
        if self.count >= MAX_RESPONSES || bytes > MAX_BYTES {
            return false;
        }
        self.count += 1;
        self.bytes = bytes;
        self.waiting.push(response);
        true
    }

    pub(super) fn take(&mut self) -> Vec<Informational> {
        mem::take(&mut self.waiting)
    }

    /// What comes now is of another exchange.
    pub(super) fn restart(&mut self) {
        self.count = 0;
        self.bytes = 0;
    }
}

/// Which informational responses a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    /// All but 100 Continue: the proxy sends that itself.
    AllButContinue,
    All,
}

impl Wanted {
    /// hyper answers the expectation of a client of HTTP/1.1 when the body is asked for, where the
    /// last `Expect` is one.
    pub(super) fn by<B>(request: &Request<B>) -> Self {
        if request.version() < Version::HTTP_11 {
            return Self::Nothing;
        }
        if request.version() > Version::HTTP_11 {
            return Self::All;
        }
        let expected = request.headers().get_all(EXPECT).iter().next_back();
        match expected.is_some_and(|of| of.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            true => Self::AllButContinue,
            false => Self::All,
        }
    }

    /// What the client gets of a response of an application.
    fn receive(self, mut response: Informational) -> Option<Informational> {
        let is_wanted = match response.status() {
            // No connection changes its protocol here.
            StatusCode::SWITCHING_PROTOCOLS => false,
            StatusCode::CONTINUE => self == Self::All,
            _ => self != Self::Nothing,
        };
        let headers = response.headers_mut();
        (is_wanted && clean(headers).is_ok()).then_some(response)
    }
}

/// As the head of a final response, and without what frames a body: there is none (RFC 9110, 8.6;
/// RFC 9112, 6.1).
fn clean(headers: &mut HeaderMap) -> Result<(), &'static str> {
    headers::clean_response(headers, true)?;
    headers.remove(UPGRADE);
    headers.remove(CONTENT_LENGTH);
    Ok(())
}

/// Follows a request that is sent once: its informational responses are passed on as they come.
pub struct Progress<'a>(pub &'a mut Exchange);

impl SendObserver for Progress<'_> {
    fn endpoint(&mut self, endpoint: &Arc<Endpoint>) {
        self.0.set_endpoint(endpoint);
    }

    fn wants_informational(&self) -> bool {
        self.0.wanted() != Wanted::Nothing
    }

    fn informational(&mut self, response: Informational) -> bool {
        let received = self.0.wanted().receive(response);
        received.is_some_and(delivery::send_informational)
    }
}

/// Follows one of several attempts.
pub struct AttemptProgress<'a> {
    progress: Progress<'a>,
    /// The endpoint that was tried last.
    pub last: Option<SocketAddr>,
    /// Informational responses, if there may be another attempt.
    held: Option<Queue>,
}

impl<'a> AttemptProgress<'a> {
    /// `repeatable`: informational responses are held back until [`Held::release`], as the result
    /// may be replaced by that of another attempt.
    pub fn new(exchange: &'a mut Exchange, repeatable: bool) -> Self {
        Self {
            progress: Progress(exchange),
            last: None,
            held: repeatable.then(Queue::default),
        }
    }

    /// What was held back.
    pub fn held(self) -> Held {
        let held = self.held.map(|mut held| held.take());
        Held(held.unwrap_or_default())
    }
}

/// Informational responses of an attempt whose result may be replaced.
pub struct Held(Vec<Informational>);

impl Held {
    /// The client gets the result of the attempt, and so its informational responses.
    pub fn release(self) {
        for response in self.0 {
            delivery::send_informational(response);
        }
    }
}

impl SendObserver for AttemptProgress<'_> {
    fn endpoint(&mut self, endpoint: &Arc<Endpoint>) {
        self.last = Some(endpoint.address);
        self.progress.endpoint(endpoint);
        if let Some(held) = &mut self.held {
            *held = Queue::default();
        }
    }

    fn wants_informational(&self) -> bool {
        self.progress.wants_informational()
    }

    fn informational(&mut self, response: Informational) -> bool {
        let Some(held) = &mut self.held else {
            return self.progress.informational(response);
        };
        if let Some(response) = self.progress.0.wanted().receive(response) {
            held.push(response);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn response(status: u16, fields: &[(&'static str, &str)]) -> Informational {
        let mut response = Informational::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            let value = HeaderValue::from_str(value).unwrap();
            response.headers_mut().append(*name, value);
        }
        response
    }

    #[test]
    fn responses_of_exchange_are_bounded() {
        let mut queue = Queue::default();
        let pushed = (0..20).filter(|_| queue.push(response(103, &[])));
        assert_eq!(pushed.count(), MAX_RESPONSES);
        assert_eq!(queue.take().len(), MAX_RESPONSES);
        assert!(!queue.push(response(103, &[])), "those sent count too");
        queue.restart();
        let large = "x".repeat(MAX_BYTES / 2);
        assert!(queue.push(response(103, &[("x-a", &large)])));
        assert!(!queue.push(response(103, &[("x-a", &large)])));
        assert!(queue.push(response(103, &[("x-a", "1")])));
    }

    #[test]
    fn client_gets_what_its_version_allows() {
        let by = |version, fields: &[&str]| {
            let mut request = Request::new(());
            *request.version_mut() = version;
            for value in fields {
                request.headers_mut().append(EXPECT, value.parse().unwrap());
            }
            Wanted::by(&request)
        };
        let gets = |wanted: Wanted, status| wanted.receive(response(status, &[])).is_some();
        for (wanted, statuses) in [
            (by(Version::HTTP_10, &[]), &[][..]),
            (by(Version::HTTP_11, &[]), &[100, 102, 103, 199]),
            (by(Version::HTTP_11, &["100-Continue"]), &[102, 103, 199]),
            (
                by(Version::HTTP_11, &["100-continue", "x"]),
                &[100, 102, 103, 199],
            ),
            (
                by(Version::HTTP_2, &["100-continue"]),
                &[100, 102, 103, 199],
            ),
        ] {
            for status in [100, 101, 102, 103, 199] {
                assert_eq!(
                    gets(wanted, status),
                    statuses.contains(&status),
                    "{wanted:?} {status}"
                );
            }
        }
    }

    #[test]
    fn fields_of_connection_and_framing_are_removed() {
        let fields = [
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("weft-error", "forged"),
            ("link", "</a>"),
        ];
        let received = Wanted::All.receive(response(103, &fields)).unwrap();
        let names: Vec<_> = received
            .headers()
            .keys()
            .map(|name| name.as_str())
            .collect();
        assert_eq!(names, ["link"]);
        let coded = response(103, &[("transfer-encoding", "gzip")]);
        assert!(Wanted::All.receive(coded).is_none());
    }
}

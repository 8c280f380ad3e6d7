//! Faults that a rule injects into its requests on purpose.
//!
//! Source: Envoy, `extensions.filters.http.fault.v3.HTTPFault`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::percent::Percent;

/// What is done to requests of a rule: a delay, and an answer in place of the application's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultInjection {
    /// Namespace and name of the FaultFilter, for the error.
    pub filter: Arc<str>,
    /// The requests that it concerns; `None`: all.
    pub header: Option<FaultHeader>,
    /// How long requests wait.
    pub delay: Option<FaultDelay>,
    /// What they are answered, after the delay.
    pub abort: Option<FaultAbort>,
}

impl FaultInjection {
    /// Returns true for a request with these headers.
    pub fn concerns(&self, headers: &HeaderMap) -> bool {
        let Some(FaultHeader { name, value }) = &self.header else {
            return true;
        };
        let mut values = headers.get_all(name).iter();
        match value {
            None => values.next().is_some(),
            Some(wanted) => values.any(|value| value.as_bytes() == wanted.as_bytes()),
        }
    }
}

/// A header of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultHeader {
    /// Its name.
    pub name: HeaderName,
    /// Its whole value; `None`: any.
    pub value: Option<Arc<str>>,
}

/// A delay of some requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultDelay {
    time: Duration,
    share: Percent,
}

impl FaultDelay {
    /// The shortest time.
    pub const LEAST: Duration = Duration::from_millis(1);
    /// The longest time.
    pub const MOST: Duration = Duration::from_secs(60);

    /// Returns `None` unless [`FaultDelay::LEAST`] <= time <= [`FaultDelay::MOST`].
    pub fn new(time: Duration, share: Percent) -> Option<Self> {
        let fits = (Self::LEAST..=Self::MOST).contains(&time);
        fits.then_some(Self { time, share })
    }

    /// The time.
    pub fn time(self) -> Duration {
        self.time
    }

    /// Of how many requests.
    pub fn share(self) -> Percent {
        self.share
    }
}

/// An answer to some requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultAbort {
    /// Its status.
    pub status: FaultStatus,
    /// Of how many requests.
    pub share: Percent,
}

/// The status of an injected answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultStatus {
    /// 400 to 599.
    Http(HttpError),
    /// Of gRPC.
    Grpc(GrpcError),
}

/// A status of HTTP from 400 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpError(StatusCode);

impl HttpError {
    /// Returns `None` for any other number.
    pub fn new(number: u32) -> Option<Self> {
        let number = u16::try_from(number).ok();
        let number = number.filter(|number| (400..=599).contains(number))?;
        StatusCode::from_u16(number).ok().map(Self)
    }

    /// Returns the status.
    pub fn get(self) -> StatusCode {
        self.0
    }
}

/// A status of gRPC from 1 to 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcError(u8);

impl GrpcError {
    /// Returns `None` for any other number, 0 (OK) included.
    pub fn new(number: u32) -> Option<Self> {
        let number = u8::try_from(number).ok()?;
        (1..=16).contains(&number).then_some(Self(number))
    }

    /// Returns the number.
    pub fn get(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn delay_and_statuses_are_bounded() {
        let delay = |millis| FaultDelay::new(Duration::from_millis(millis), Percent::default());
        assert!(delay(1).is_some() && delay(60_000).is_some());
        assert!(delay(0).is_none() && delay(60_001).is_none());
        for (number, valid) in [(399, false), (400, true), (599, true), (600, false)] {
            assert_eq!(HttpError::new(number).is_some(), valid, "{number}");
        }
        assert_eq!(HttpError::new(65_536 + 503), None);
        for (number, valid) in [(0, false), (1, true), (16, true), (17, false), (257, false)] {
            assert_eq!(GrpcError::new(number).is_some(), valid, "{number}");
        }
    }

    #[test]
    fn fault_concerns_requests_with_its_header() {
        let fault = |header: Option<(&'static str, Option<&str>)>| FaultInjection {
            filter: "shop/slow".into(),
            header: header.map(|(name, value)| FaultHeader {
                name: HeaderName::from_static(name),
                value: value.map(Into::into),
            }),
            delay: None,
            abort: None,
        };
        let mut headers = HeaderMap::new();
        headers.append("x-test", HeaderValue::from_static("one"));
        headers.append("x-test", HeaderValue::from_static("two"));
        for (header, concerned) in [
            (None, true),
            (Some(("x-test", None)), true),
            (Some(("x-other", None)), false),
            (Some(("x-test", Some("two"))), true),
            (Some(("x-test", Some("three"))), false),
            (Some(("x-test", Some("one, two"))), false),
        ] {
            assert_eq!(fault(header).concerns(&headers), concerned, "{header:?}");
        }
    }
}

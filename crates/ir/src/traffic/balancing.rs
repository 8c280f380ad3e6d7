//! Load balancing: which endpoint takes a request.

use std::time::Duration;

use http::HeaderName;

/// Which endpoint takes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancing {
    /// Among those that are preferred and healthy.
    pub method: BalancingMethod,
    /// Which are preferred.
    pub zones: ZonePreference,
}

impl From<BalancingMethod> for LoadBalancing {
    fn from(method: BalancingMethod) -> Self {
        let zones = ZonePreference::default();
        Self { method, zones }
    }
}

/// Which endpoints are preferred by where they and the client are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZonePreference {
    /// Those of the topology hints.
    #[default]
    Service,
    /// Those of the client's zone.
    Prefer,
    /// Those of the client's zone, and no others are used.
    Require,
    /// None.
    Disabled,
}

/// How an endpoint is chosen among those that are preferred and healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BalancingMethod {
    /// For each request by itself.
    PerRequest {
        /// How.
        algorithm: Algorithm,
        /// The share of a new endpoint grows.
        slow_start: Option<SlowStart>,
    },
    /// By what requests have in common.
    ConsistentHash(ConsistentHash),
}

impl Default for BalancingMethod {
    /// Returns the method without a policy.
    fn default() -> Self {
        Self::PerRequest {
            algorithm: Algorithm::default(),
            slow_start: None,
        }
    }
}

/// How an endpoint is chosen for a request by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Of two random endpoints the one with the lower latency times requests in flight.
    #[default]
    PeakEwma,
    /// Of two random endpoints the one with fewer requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
}

/// How long the share of a new endpoint grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStart(Duration);

impl SlowStart {
    /// The shortest time.
    pub const LEAST: Duration = Duration::from_secs(1);
    /// The longest time.
    pub const MOST: Duration = Duration::from_secs(3600);

    /// Returns `None` if the time is shorter than [`SlowStart::LEAST`] or longer than
    /// [`SlowStart::MOST`].
    pub fn new(window: Duration) -> Option<Self> {
        let fits = (Self::LEAST..=Self::MOST).contains(&window);
        fits.then_some(Self(window))
    }

    /// The time.
    pub fn window(self) -> Duration {
        self.0
    }
}

/// Requests with the same key go to the same endpoint. Those without the key are balanced as by
/// [`Algorithm::PeakEwma`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// Where the key is.
    pub key: HashKey,
    /// Bounds the requests in flight to one endpoint.
    pub load_factor: Option<LoadFactor>,
}

/// What of a request is its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The values of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(HashCookie),
    /// The first value of the query parameter, decoded.
    QueryParameter(String),
    /// The address that the client connects from.
    SourceAddress,
}

/// Most requests in flight to one endpoint, in percent of the average of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadFactor(u16);

impl LoadFactor {
    /// The lowest factor.
    pub const LEAST: u16 = 100;
    /// The highest factor.
    pub const MOST: u16 = 1000;

    /// Returns `None` unless [`LoadFactor::LEAST`] <= percent <= [`LoadFactor::MOST`].
    pub fn new(percent: u32) -> Option<Self> {
        let percent = u16::try_from(percent).ok()?;
        let fits = (Self::LEAST..=Self::MOST).contains(&percent);
        fits.then_some(Self(percent))
    }

    /// The factor in percent.
    pub fn percent(self) -> u16 {
        self.0
    }
}

/// A cookie as a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    name: Box<str>,
    path: Box<str>,
    ttl: Option<Duration>,
}

impl HashCookie {
    /// The longest time that clients keep a cookie (RFC 6265bis, 5.5).
    pub const MOST_TTL: Duration = Duration::from_secs(400 * 24 * 3600);

    /// Returns `None` if the name is no token, if the path does not begin with a slash or has
    /// characters that end it, or if the time is longer than [`HashCookie::MOST_TTL`] or no
    /// number of whole seconds.
    pub fn new(name: &str, path: &str, ttl: Option<Duration>) -> Option<Self> {
        let is_token =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_name = !name.is_empty() && name.bytes().all(is_token);
        let mut rest = path.bytes();
        let is_path =
            path.starts_with('/') && rest.all(|byte| byte.is_ascii_graphic() && byte != b';');
        let is_time = |ttl: Duration| ttl.subsec_nanos() == 0 && ttl <= Self::MOST_TTL;
        (is_name && is_path && ttl.is_none_or(is_time)).then(|| Self {
            name: name.into(),
            path: path.into(),
            ttl,
        })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of a cookie that is made.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// How long a client keeps a cookie that is made for it; zero: until its session ends. `None`:
    /// no cookie is made.
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_cannot_break_out_of_their_header() {
        let seconds = Duration::from_secs;
        assert!(HashCookie::new("session_1", "/a/b?c=d", Some(seconds(0))).is_some());
        assert!(HashCookie::new("a", "/", Some(HashCookie::MOST_TTL)).is_some());
        for (name, path, ttl) in [
            ("", "/", None),
            ("a b", "/", None),
            ("a=b", "/", None),
            ("a;", "/", None),
            ("a\r\n", "/", None),
            ("ä", "/", None),
            ("a", "", None),
            ("a", "b", None),
            ("a", "/b; Secure", None),
            ("a", "/b;", None),
            ("a", "/\n", None),
            ("a", "/ä", None),
            ("a", "/", Some(Duration::from_millis(1500))),
            ("a", "/", Some(HashCookie::MOST_TTL + seconds(1))),
        ] {
            assert_eq!(HashCookie::new(name, path, ttl), None, "{name:?} {path:?}");
        }
    }

    #[test]
    fn factors_and_windows_are_bounded() {
        for (percent, fits) in [(99, false), (100, true), (1000, true), (1001, false)] {
            assert_eq!(LoadFactor::new(percent).is_some(), fits, "{percent}");
        }
        for (millis, fits) in [
            (999, false),
            (1000, true),
            (3_600_000, true),
            (3_600_001, false),
        ] {
            let window = Duration::from_millis(millis);
            assert_eq!(SlowStart::new(window).is_some(), fits, "{millis}");
        }
    }
}

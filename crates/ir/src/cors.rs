//! The CORS policy of a route, and matching of origins.
//!
//! Source: Gateway API v1.6.3, `HTTPCORSFilter` and `CORSOrigin`. How the proxy responds is not
//! part of this module.

use std::fmt;
use std::str::FromStr;

use http::HeaderValue;

/// A CORS policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Allowed origins; none if empty.
    pub origins: Vec<OriginPattern>,
    /// Whether requests may carry credentials. In this case `*` is never sent.
    pub credentials: bool,
    /// Allowed methods.
    pub methods: Allowed,
    /// Allowed request headers.
    pub headers: Allowed,
    /// Response headers that are exposed to scripts.
    pub expose: Allowed,
    /// How long the response to a preflight request can be cached, in seconds.
    pub max_age: u32,
}

impl Cors {
    /// Returns true if the value of an `Origin` header is allowed.
    pub fn allows(&self, origin: &str) -> bool {
        self.origins.iter().any(|pattern| pattern.matches(origin))
    }
}

/// Allowed methods or header names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    /// Not specified.
    #[default]
    Unsaid,
    /// `*`.
    Any,
    /// The value of the header: `GET, PUT`.
    These(HeaderValue),
}

/// An origin: `*`, `https://shop.example`, `https://*.shop.example:8443` or `https://*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// Any origin.
    Any,
    /// Origins with this scheme, host and port.
    Of {
        /// Whether the scheme is https, else http.
        https: bool,
        /// Host.
        host: OriginHost,
        /// Port.
        port: u16,
    },
}

/// The host of an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginHost {
    /// Any host.
    Any,
    /// The part after `*`, with its dot: preceded by one or more labels.
    EndsWith(String),
    /// Exactly this host, regardless of case.
    Exact(String),
}

/// The text is not an origin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{0:?} is neither * nor of the form http(s)://host(:port), where the host may be * or begin with *."
)]
pub struct OriginError(String);

impl OriginPattern {
    fn matches(&self, origin: &str) -> bool {
        let Self::Of { https, host, port } = self else {
            return true;
        };
        let Some((theirs, name, number)) = parts(origin) else {
            return false;
        };
        theirs == *https && number == *port && host.matches(name)
    }
}

impl OriginHost {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => !name.is_empty(),
            Self::Exact(exact) => exact.eq_ignore_ascii_case(name),
            Self::EndsWith(end) => name
                .len()
                .checked_sub(end.len())
                .filter(|start| *start > 0)
                .and_then(|start| name.get(start..))
                .is_some_and(|rest| rest.eq_ignore_ascii_case(end)),
        }
    }
}

/// Returns whether the scheme is https, the host, and the port, which defaults to that of the
/// scheme.
fn parts(origin: &str) -> Option<(bool, &str, u16)> {
    let (scheme, rest) = origin.split_once("://")?;
    let https = match scheme {
        _ if scheme.eq_ignore_ascii_case("https") => true,
        _ if scheme.eq_ignore_ascii_case("http") => false,
        _ => return None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        // The colons in `[::1]` belong to the address.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (rest, if https { 443 } else { 80 }),
    };
    Some((https, host, port))
}

impl FromStr for OriginPattern {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let refuse = || OriginError(text.to_owned());
        let (https, host, port) = parts(text)
            .filter(|(.., port)| *port > 0)
            .ok_or_else(refuse)?;
        let named = |host: &str| {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            host.split('.')
                .all(|label| !label.is_empty() && label.bytes().all(legal))
        };
        let host = match host.strip_prefix('*') {
            Some("") => OriginHost::Any,
            Some(end) if end.strip_prefix('.').is_some_and(named) => {
                OriginHost::EndsWith(end.to_owned())
            }
            None if named(host) => OriginHost::Exact(host.to_owned()),
            _ => return Err(refuse()),
        };
        Ok(Self::Of { https, host, port })
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Of { https, host, port } = self else {
            return f.write_str("*");
        };
        let scheme = if *https { "https" } else { "http" };
        match host {
            OriginHost::Any => write!(f, "{scheme}://*:{port}"),
            OriginHost::EndsWith(end) => write!(f, "{scheme}://*{end}:{port}"),
            OriginHost::Exact(exact) => write!(f, "{scheme}://{exact}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_match_as_the_specification_says() {
        for (pattern, origin, taken) in [
            ("*", "null", true),
            ("https://foo.com", "https://foo.com", true),
            ("https://foo.com", "https://FOO.com:443", true),
            ("https://foo.com", "https://foo.com:8443", false),
            ("https://foo.com", "http://foo.com", false),
            ("http://foo.com:8080", "http://foo.com:8080", true),
            ("https://*.bar.com", "https://www.bar.com", true),
            ("https://*.bar.com", "https://a.www.bar.com", true),
            ("https://*.bar.com", "https://bar.com", false),
            ("https://*.bar.com", "https://.bar.com", false),
            ("https://*.bar.com", "https://foobar.com", false),
            ("https://*", "https://anything", true),
            ("https://*", "https://[::1]:443", true),
            ("https://*", "http://anything", false),
            ("http://*:8080", "http://a.b:8080", true),
            ("http://*", "null", false),
            ("http://*", "http://", false),
            ("http://*", "http://é", true),
        ] {
            let parsed: OriginPattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(origin), taken, "{pattern} {origin}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }

    #[test]
    fn invalid_origins_are_rejected() {
        for text in [
            "",
            "foo.com",
            "ftp://foo.com",
            "https://",
            "https://foo.com:0",
            "https://foo.com:99999",
            "https://foo.*.com",
            "https://foo.com/path",
            "https://*bar.com",
            "https://a..b",
            "**",
        ] {
            assert!(text.parse::<OriginPattern>().is_err(), "{text}");
        }
    }
}

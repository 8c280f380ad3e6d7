//! What a server changes on a request that it allows, and on its response. A server is not trusted
//! with what proxies say of the client, and with what frames a message.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName,
    HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};

use weft_ir::decode_query;

use super::AuthError;
use crate::http::headers;
use crate::spellings;

/// What the response to the client gets once its request has passed.
#[derive(Default)]
pub struct ResponseChanges(Vec<(HeaderName, HeaderValue, How)>);

/// How a value meets those that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// In their place.
    Set,
    /// Beside them.
    Append,
    IfAbsent,
    IfPresent,
}

/// The changes to a request.
#[derive(Default)]
pub(super) struct Changes {
    /// Names whose values the client must not forge.
    pub(super) reserved: Vec<HeaderName>,
    pub(super) remove: Vec<HeaderName>,
    pub(super) headers: Vec<(HeaderName, HeaderValue, How)>,
    pub(super) query_remove: Vec<String>,
    pub(super) query_set: Vec<(String, String)>,
    pub(super) of_response: Vec<(HeaderName, HeaderValue, How)>,
}

impl Changes {
    /// Errors if the request gets too large, and leaves it as it was then.
    pub(super) fn apply(
        self,
        head: &mut Parts,
        granted: &mut Option<Box<ResponseChanges>>,
    ) -> Result<(), AuthError> {
        let mut changed = head.headers.clone();
        spellings::remove(&mut changed, &self.reserved);
        for name in &self.remove {
            changed.remove(name);
        }
        change(&self.headers, &mut changed);
        let uri = match self.query_remove.is_empty() && self.query_set.is_empty() {
            true => None,
            false => Some(with_query(&head.uri, &self.query_remove, &self.query_set)?),
        };
        let before = std::mem::replace(&mut head.headers, changed);
        let before_uri = uri.map(|uri| std::mem::replace(&mut head.uri, uri));
        if headers::is_too_large(head) {
            head.headers = before;
            if let Some(uri) = before_uri {
                head.uri = uri;
            }
            return Err(AuthError::TooLarge);
        }
        if !self.of_response.is_empty() {
            let granted = granted.get_or_insert_default();
            granted.0.extend(self.of_response);
        }
        Ok(())
    }
}

impl ResponseChanges {
    pub fn apply(&self, headers: &mut HeaderMap) {
        change(&self.0, headers);
    }
}

fn change(changes: &[(HeaderName, HeaderValue, How)], headers: &mut HeaderMap) {
    // First, so that several values of one name are all set.
    for (name, _, how) in changes {
        if *how == How::Set {
            headers.remove(name);
        }
    }
    for (name, value, how) in changes {
        match how {
            How::Set | How::Append => drop(headers.append(name, value.clone())),
            How::IfAbsent if headers.contains_key(name) => {}
            How::IfPresent if !headers.contains_key(name) => {}
            How::IfAbsent | How::IfPresent => drop(headers.insert(name, value.clone())),
        }
    }
}

/// Returns true if a server may set or remove the header.
pub(super) fn is_changeable(name: &HeaderName) -> bool {
    let framing = [
        HOST,
        CONNECTION,
        CONTENT_LENGTH,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        EXPECT,
        FORWARDED,
    ];
    let text = name.as_str();
    !framing.contains(name)
        && !matches!(text, "keep-alive" | "proxy-connection" | "http2-settings")
        && !text.starts_with("x-forwarded-")
        && !text.starts_with("weft-")
}

/// Returns true if the header is sent to a server when it is asked for.
pub(super) fn is_forwardable(name: &HeaderName) -> bool {
    let own = [
        HOST,
        AUTHORIZATION,
        CONNECTION,
        CONTENT_LENGTH,
        TE,
        TRANSFER_ENCODING,
        UPGRADE,
        EXPECT,
    ];
    !own.contains(name)
}

/// Returns the URI without the parameters in `remove` and those in `set`, and then with these.
fn with_query(uri: &Uri, remove: &[String], set: &[(String, String)]) -> Result<Uri, AuthError> {
    let is_gone = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        let name = decode_query(name);
        remove.iter().any(|of| *of == name) || set.iter().any(|(of, _)| *of == name)
    };
    let query = uri.query().unwrap_or_default().split('&');
    let kept = query.filter(|pair| !pair.is_empty() && !is_gone(pair));
    let mut pairs: Vec<String> = kept.map(str::to_owned).collect();
    let set = set
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)));
    pairs.extend(set);
    let whole = match pairs.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), pairs.join("&")),
    };
    let malformed = |_| AuthError::Malformed("query parameters");
    let path = PathAndQuery::try_from(whole).map_err(malformed)?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_| AuthError::Malformed("query parameters"))
}

fn encoded(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            true => all.push(char::from(byte)),
            false => all.push_str(&format!("%{byte:02X}")),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uri: &str, headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn name(text: &'static str) -> HeaderName {
        HeaderName::from_static(text)
    }

    fn values<'a>(head: &'a Parts, name: &str) -> Vec<&'a str> {
        let values = head.headers.get_all(name).iter();
        values.map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn values_are_set_appended_and_reserved() {
        let value = HeaderValue::from_static;
        let mut request = head(
            "/",
            &[
                ("x-user", "forged"),
                ("x_user", "forged"),
                ("x-a", "client"),
                ("x-b", "client"),
                ("x-c", "client"),
                ("x-gone", "1"),
            ],
        );
        let changes = Changes {
            reserved: vec![name("x-user")],
            remove: vec![name("x-gone")],
            headers: vec![
                (name("x-a"), value("1"), How::Set),
                (name("x-a"), value("2"), How::Set),
                (name("x-b"), value("1"), How::Append),
                (name("x-c"), value("1"), How::IfAbsent),
                (name("x-d"), value("1"), How::IfPresent),
                (name("x-e"), value("1"), How::IfAbsent),
            ],
            ..Changes::default()
        };
        changes.apply(&mut request, &mut None).unwrap();
        for (name, expected) in [
            ("x-user", &[][..]),
            ("x_user", &[]),
            ("x-gone", &[]),
            ("x-a", &["1", "2"]),
            ("x-b", &["client", "1"]),
            ("x-c", &["client"]),
            ("x-d", &[]),
            ("x-e", &["1"]),
        ] {
            assert_eq!(values(&request, name), expected, "{name}");
        }
    }

    #[test]
    fn query_parameters_are_set_and_removed_by_decoded_name() {
        let set = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        for (uri, remove, set, expected) in [
            ("/a?b=1&c=2", "b", vec![], "/a?c=2"),
            ("/a?b=1", "b", vec![], "/a"),
            ("/a?%62=1&b", "b", vec![], "/a"),
            ("/a?b+c=1", "b c", vec![], "/a"),
            ("/a", "", set("d e", "&=\u{e9}"), "/a?d%20e=%26%3D%C3%A9"),
            ("/a?d=1&d=2&e=3", "", set("d", "4"), "/a?e=3&d=4"),
            ("http://shop/a?%", "", set("d", "4"), "http://shop/a?%&d=4"),
        ] {
            let uri = with_query(&uri.parse().unwrap(), &[remove.to_owned()], &set).unwrap();
            assert_eq!(uri.to_string(), expected);
        }
    }

    #[test]
    fn request_that_gets_too_large_stays_as_it_was() {
        let value = HeaderValue::from_bytes(&[b'a'; 65_536]).unwrap();
        let changes = Changes {
            remove: vec![name("x-a")],
            headers: vec![(name("x-b"), value, How::Set)],
            ..Changes::default()
        };
        let mut request = head("/", &[("x-a", "1")]);
        assert!(changes.apply(&mut request, &mut None).is_err());
        assert_eq!(values(&request, "x-a"), ["1"]);
    }
}

//! Names of headers that proxies set and applications trust, in all the spellings that applications
//! take for the same: to many, `_` stands for `-`.
//!
//! Source: RFC 3875 (CGI), 4.1.18.

use http::{HeaderMap, HeaderName};

/// Removes headers with these names, however they are spelled.
pub(crate) fn remove<'n>(
    headers: &mut HeaderMap,
    names: impl IntoIterator<Item = &'n HeaderName> + Clone,
) {
    let is_named = |header: &&HeaderName| {
        let mut names = names.clone().into_iter();
        names.any(|name| is_same(name.as_str(), header.as_str()))
    };
    let named: Vec<HeaderName> = headers.keys().filter(is_named).cloned().collect();
    for name in named {
        headers.remove(name);
    }
}

fn is_same(one: &str, other: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    one.len() == other.len() && one.bytes().map(plain).eq(other.bytes().map(plain))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn names_are_removed_in_every_spelling() {
        let name = HeaderName::from_static;
        let mut headers = HeaderMap::new();
        for of in ["x-user-id", "x_user_id", "x-user_id", "x-user", "x_users"] {
            headers.append(name(of), HeaderValue::from_static("forged"));
        }
        remove(&mut headers, &[name("x-user-id")]);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-user", "x_users"]);
        remove(&mut headers, &[]);
        assert_eq!(headers.len(), 2);
    }
}

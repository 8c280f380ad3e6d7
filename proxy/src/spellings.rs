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
    for name in names.clone() {
        headers.remove(name);
    }
    if !headers.keys().any(|name| name.as_str().contains('_')) {
        return;
    }
    let plain = |name: &HeaderName| name.as_str().replace('_', "-");
    let reserved: Vec<String> = names.into_iter().map(plain).collect();
    let forged = headers
        .keys()
        .filter(|name| reserved.contains(&plain(name)));
    let forged: Vec<HeaderName> = forged.cloned().collect();
    for name in forged {
        headers.remove(name);
    }
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

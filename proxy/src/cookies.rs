//! The cookies of a request.

use http::HeaderMap;
use http::header::COOKIE;

/// Returns the values of the cookies with a name, without the quotes of those that have them.
/// HTTP/2 may split cookies into fields (RFC 9113, 8.2.3).
pub(crate) fn cookie_values<'h>(
    headers: &'h HeaderMap,
    name: &str,
) -> impl Iterator<Item = &'h [u8]> {
    let fields = headers.get_all(COOKIE).iter();
    let pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        let named = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        let mut value = named.strip_prefix(b"=")?;
        while let [b'"', rest @ ..] = value {
            value = rest;
        }
        while let [rest @ .., b'"'] = value {
            value = rest;
        }
        Some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_in_all_fields_and_without_quotes() {
        let mut headers = HeaderMap::new();
        for field in ["a=1; ab=2;a=\"3\"", "a=; b=a=4", "=5; a"] {
            headers.append(COOKIE, field.parse().unwrap());
        }
        let values: Vec<&[u8]> = cookie_values(&headers, "a").collect();
        assert_eq!(values, [&b"1"[..], b"3", b""]);
    }
}

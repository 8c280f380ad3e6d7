//! The normal form of a request's path, so that what rules match is what applications read. Pure.
//!
//! - Unreserved characters are decoded from their escapes: `/%61` is `/a` (RFC 3986, 6.2.2.2).
//! - Dot segments are resolved, escaped or not: `/a/../b` is `/b` (RFC 3986, 6.2.2.3 and 5.2.4).
//! - Empty segments are merged: `//a` is `/a`. The RFC keeps them; most applications do not.
//! - A backslash is a slash (WHATWG URL, 4.4, as browsers send it).
//!
//! Nothing is decoded twice. Escaped slashes and backslashes (`%2F`, `%5C`) stay as they are, in
//! matching and on the way to the application: they are part of a segment. Path parameters (`;x`),
//! case and the query stay too.

use http::request::Parts;
use http::uri::{PathAndQuery, Uri};

/// Puts the path of the request into its normal form.
pub fn normalize(head: &mut Parts) {
    let Some(path) = normal_form(head.uri.path()) else {
        return;
    };
    let whole = match head.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    // Fewer characters of the same kinds make a legal target too; if not, the request stays as it
    // is.
    let Ok(target) = PathAndQuery::try_from(whole) else {
        return;
    };
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    let before = parts.path_and_query.replace(target);
    head.uri = Uri::from_parts(parts).unwrap_or_else(|_| before.map(Uri::from).unwrap_or_default());
}

/// The normal form of a path that begins with a slash; `None` where it has it already.
fn normal_form(path: &str) -> Option<String> {
    if !path.starts_with('/') || is_normal(path.as_bytes()) {
        return None;
    }
    let decoded = decode_unreserved(path);
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = decoded.split(['/', '\\']).skip(1).peekable();
    // Whether the path ends with a slash: after a last segment that is empty or a dot segment it
    // does.
    let mut open = true;
    while let Some(segment) = parts.next() {
        open = parts.peek().is_none();
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => {
                segments.push(name);
                open = false;
            }
        }
    }
    let mut normal = String::with_capacity(decoded.len());
    for segment in &segments {
        normal.push('/');
        normal.push_str(segment);
    }
    if open || segments.is_empty() {
        normal.push('/');
    }
    (normal != path).then_some(normal)
}

/// Whether nothing in the path can have another form: the common case costs one pass and no
/// allocation.
fn is_normal(path: &[u8]) -> bool {
    let plain = !path.iter().any(|byte| matches!(byte, b'%' | b'\\'));
    plain
        && path
            .windows(2)
            .all(|pair| pair[0] != b'/' || !matches!(pair[1], b'/' | b'.'))
}

/// Decodes the escapes of `ALPHA / DIGIT / "-" / "." / "_" / "~"` (RFC 3986, 2.3) and leaves the
/// others.
fn decode_unreserved(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = String::with_capacity(path.len());
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes.get(at..at + 3).and_then(unreserved) {
            Some(character) => {
                decoded.push_str(path.get(copied..at).unwrap_or_default());
                decoded.push(character);
                at += 3;
                copied = at;
            }
            None => at += 1,
        }
    }
    decoded.push_str(path.get(copied..).unwrap_or_default());
    decoded
}

/// The unreserved character of an escape such as `%61`.
fn unreserved(escape: &[u8]) -> Option<char> {
    let [b'%', high, low] = escape else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let code = digit(*high)? * 16 + digit(*low)?;
    char::from_u32(code).filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(target: &str) -> String {
        let request = http::Request::builder().uri(target).body(()).unwrap();
        let mut head = request.into_parts().0;
        normalize(&mut head);
        head.uri.to_string()
    }

    #[test]
    fn equivalent_paths_normalize_alike() {
        for (target, normal) in [
            ("/admin", "/admin"),
            ("//admin", "/admin"),
            ("/./admin", "/admin"),
            ("/a/../admin", "/admin"),
            ("/a/%2e%2e/admin", "/admin"),
            ("/a/.%2E/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/../../admin", "/admin"),
            ("/a\\..\\admin", "/admin"),
            ("///", "/"),
            ("/", "/"),
            ("/.", "/"),
            ("/..", "/"),
            ("/a/", "/a/"),
            ("/a//", "/a/"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/...", "/a/..."),
            ("/.well-known/acme", "/.well-known/acme"),
            ("/a/.b/..c", "/a/.b/..c"),
            // Decoded once, and reserved characters not at all.
            ("/%2561dmin", "/%2561dmin"),
            ("/a%2fb", "/a%2fb"),
            ("/a%2F..%2Fb", "/a%2F..%2Fb"),
            ("/a%5Cb", "/a%5Cb"),
            ("/a;x=/../b", "/b"),
            ("/a;x=1", "/a;x=1"),
            ("/%zz%6", "/%zz%6"),
            ("/%C3%A9%7E", "/%C3%A9~"),
            ("/a/../b?x=/../%61//", "/b?x=/../%61//"),
            ("//a?", "/a?"),
            ("http://shop:80//a/./b?c", "http://shop:80/a/b?c"),
            ("*", "*"),
        ] {
            assert_eq!(normalized(target), normal, "{target}");
        }
    }

    /// Reference implementation for paths without a query: decodes first, then removes dot segments
    /// one by one.
    fn reference(path: &str) -> String {
        let mut decoded = path.replace('\\', "/");
        for byte in (b'0'..=b'9')
            .chain(b'a'..=b'z')
            .chain(b'A'..=b'Z')
            .chain(*b"-._~")
        {
            for escape in [format!("%{byte:02x}"), format!("%{byte:02X}")] {
                // A decoded character is not part of another escape.
                decoded = decoded.replace(&escape, &format!("\u{1}{}\u{1}", char::from(byte)));
            }
        }
        let decoded = decoded.replace('\u{1}', "");
        let mut kept: Vec<&str> = Vec::new();
        for segment in decoded.split('/') {
            match segment {
                "" | "." => {}
                ".." => drop(kept.pop()),
                name => kept.push(name),
            }
        }
        let ends = ["/", "/.", "/.."].iter().any(|end| decoded.ends_with(end));
        let slash = if ends && !kept.is_empty() { "/" } else { "" };
        format!("/{}{slash}", kept.join("/"))
    }

    proptest::proptest! {
        #[test]
        fn normalized_path_matches_reference(
            path in "(/|\\\\|[.]|[.][.]|%2[eE]|%2[fF]|%5[cC]|%61|%6|%|a|A|;|2e){0,16}",
        ) {
            let path = format!("/{path}");
            proptest::prop_assert_eq!(normalized(&path), reference(&path), "{}", path);
        }

        #[test]
        fn normalization_is_idempotent(path in "/[a-c./%2eE6-9\\\\;]{0,24}") {
            let once = normalized(&path);
            proptest::prop_assert_eq!(normalized(&once), once.clone());
            proptest::prop_assert!(!once.contains("//") && !once.contains("/../"), "{}", once);
        }
    }
}

//! Where the token of a request is.

use http::header::COOKIE;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use weft_ir::{JwtProvider, TokenLocation, decode_query};

use super::token::TokenError;
use crate::cookies::cookie_values;

/// Returns the token of a request. All places of all providers are looked at: an application may
/// read another one than the proxy, so that two tokens have to be the same.
pub(super) fn token<'h>(
    providers: &[JwtProvider],
    head: &'h Parts,
) -> Result<Option<&'h str>, TokenError> {
    let mut found = None;
    for location in providers.iter().flat_map(|of| &of.locations) {
        for token in at(location, head)? {
            match &found {
                None => found = Some(token),
                Some(before) if *before == token => {}
                Some(_) => return Err(TokenError::Several),
            }
        }
    }
    Ok(found)
}

fn at<'h>(location: &TokenLocation, head: &'h Parts) -> Result<Vec<&'h str>, TokenError> {
    match location {
        TokenLocation::Header { name, prefix } => {
            let mut values = head.headers.get_all(name).iter();
            let Some(value) = values.next() else {
                return Ok(Vec::new());
            };
            if values.any(|other| other != value) {
                return Err(TokenError::Several);
            }
            Ok(after_prefix(value, prefix)?.into_iter().collect())
        }
        TokenLocation::Query(name) => {
            let pairs = head.uri.query().unwrap_or_default().split('&');
            let named = pairs.filter_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode_query(key) == name.as_str()).then_some(value)
            });
            Ok(named.collect())
        }
        TokenLocation::Cookie(name) => cookies(&head.headers, name),
    }
}

/// A header that does not begin with the prefix has no token.
fn after_prefix<'h>(value: &'h HeaderValue, prefix: &str) -> Result<Option<&'h str>, TokenError> {
    let bytes = value.as_bytes();
    // The prefix without its spaces: `Bearer` alone announces a token, too.
    let word = prefix.trim_end();
    let Some((begin, rest)) = bytes.split_at_checked(word.len()) else {
        return Ok(None);
    };
    let ends = prefix.len() == word.len() || matches!(rest.first(), None | Some(b' ' | b'\t'));
    if !begin.eq_ignore_ascii_case(word.as_bytes()) || !ends {
        return Ok(None);
    }
    let rest = std::str::from_utf8(rest).map_err(|_| TokenError::Malformed)?;
    Ok(Some(rest.trim()))
}

fn cookies<'h>(headers: &'h HeaderMap, name: &str) -> Result<Vec<&'h str>, TokenError> {
    let text = |value| std::str::from_utf8(value).map_err(|_| TokenError::Malformed);
    cookie_values(headers, name).map(text).collect()
}

/// Removes the token from all of these places.
pub(super) fn remove(locations: &[TokenLocation], head: &mut Parts) {
    for location in locations {
        match location {
            TokenLocation::Header { name, prefix } => {
                let value = head.headers.get(name);
                if value.is_some_and(|value| !matches!(after_prefix(value, prefix), Ok(None))) {
                    head.headers.remove(name);
                }
            }
            TokenLocation::Query(name) => remove_parameter(&mut head.uri, name),
            TokenLocation::Cookie(name) => remove_cookie(&mut head.headers, name),
        }
    }
}

fn remove_parameter(uri: &mut Uri, name: &str) {
    let Some(query) = uri.query() else { return };
    let is_other = |pair: &&str| {
        let key = pair.split_once('=').map_or(*pair, |(key, _)| key);
        decode_query(key) != name
    };
    let kept: Vec<&str> = query.split('&').filter(is_other).collect();
    let text = match &kept[..] {
        [] => uri.path().to_owned(),
        kept => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = PathAndQuery::try_from(text).ok();
    // A part of a valid URI is one.
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    let is_other = |pair: &&[u8]| {
        let named = pair.strip_prefix(name.as_bytes());
        named.is_none_or(|rest| rest.first() != Some(&b'='))
    };
    let mut kept = Vec::new();
    for value in headers.get_all(COOKIE) {
        let pairs = value.as_bytes().split(|byte| *byte == b';');
        let pairs: Vec<&[u8]> = pairs.map(<[u8]>::trim_ascii).filter(is_other).collect();
        if !pairs.is_empty() {
            kept.extend(HeaderValue::from_bytes(&pairs.join(&b"; "[..])));
        }
    }
    headers.remove(COOKIE);
    for value in kept {
        headers.append(COOKIE, value);
    }
}

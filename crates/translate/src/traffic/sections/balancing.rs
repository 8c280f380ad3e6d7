//! Reads `loadBalancing`.

use http::HeaderName;
use weft_ir::{
    Algorithm, BalancingMethod, ConsistentHash, HashCookie, HashKey, LoadBalancing, LoadFactor,
    SlowStart, ZonePreference,
};
use weft_policy::{BalancingAlgorithm, HashKeyType};

use super::values::time;

/// Most characters of a name.
const MAX_NAME: usize = 256;
/// Most characters of a cookie's path.
const MAX_PATH: usize = 1024;

pub(super) fn read(of: &weft_policy::LoadBalancing, at: &str) -> Result<LoadBalancing, String> {
    let weft_policy::LoadBalancing {
        algorithm,
        consistent_hash,
        slow_start,
        zone_preference,
    } = of;
    let is_empty = algorithm.is_none() && slow_start.is_none() && consistent_hash.is_none();
    if is_empty && zone_preference.is_none() {
        return Err(format!(
            "{at}: algorithm, slowStart or zonePreference is required"
        ));
    }
    let algorithm = match algorithm.unwrap_or(BalancingAlgorithm::PeakEwma) {
        BalancingAlgorithm::PeakEwma => Some(Algorithm::PeakEwma),
        BalancingAlgorithm::LeastRequest => Some(Algorithm::LeastRequest),
        BalancingAlgorithm::RoundRobin => Some(Algorithm::RoundRobin),
        BalancingAlgorithm::Random => Some(Algorithm::Random),
        BalancingAlgorithm::ConsistentHash => None,
    };
    let method = match (algorithm, consistent_hash) {
        (Some(algorithm), None) => Ok(BalancingMethod::PerRequest {
            algorithm,
            slow_start: slow_start.as_ref().map(|of| window(of, at)).transpose()?,
        }),
        (None, Some(_)) if slow_start.is_some() => Err(format!(
            "{at}.slowStart: the algorithm ConsistentHash has none"
        )),
        (None, Some(of)) => {
            let hash = hash(of, &format!("{at}.consistentHash"))?;
            Ok(BalancingMethod::ConsistentHash(hash))
        }
        (Some(_), Some(_)) | (None, None) => Err(format!(
            "{at}.consistentHash: required with the algorithm ConsistentHash, and only with it"
        )),
    };
    Ok(LoadBalancing {
        method: method?,
        zones: match zone_preference {
            None | Some(weft_policy::ZonePreference::Service) => ZonePreference::Service,
            Some(weft_policy::ZonePreference::Prefer) => ZonePreference::Prefer,
            Some(weft_policy::ZonePreference::Require) => ZonePreference::Require,
            Some(weft_policy::ZonePreference::Disabled) => ZonePreference::Disabled,
        },
    })
}

fn window(of: &weft_policy::SlowStart, at: &str) -> Result<SlowStart, String> {
    let weft_policy::SlowStart { window } = of;
    let at = format!("{at}.slowStart");
    let time = time(&Some(window.clone()), &at, "window")?;
    time.and_then(SlowStart::new).ok_or_else(|| {
        let (least, most) = (SlowStart::LEAST, SlowStart::MOST);
        format!("{at}.window: {window} is not from {least:?} to {most:?}")
    })
}

fn hash(of: &weft_policy::ConsistentHash, at: &str) -> Result<ConsistentHash, String> {
    let weft_policy::ConsistentHash {
        kind,
        header,
        cookie,
        query_parameter,
        load_factor_percent,
    } = of;
    let key = match (kind, header, cookie, query_parameter) {
        (HashKeyType::Header, Some(of), None, None) => header_key(of, at)?,
        (HashKeyType::Cookie, None, Some(of), None) => cookie_key(of, at)?,
        (HashKeyType::QueryParameter, None, None, Some(of)) => query_key(of, at)?,
        (HashKeyType::SourceAddress, None, None, None) => HashKey::SourceAddress,
        _ => {
            return Err(format!(
                "{at}: exactly the field that the type names is required; SourceAddress has none"
            ));
        }
    };
    let factor = |percent: u32| {
        let (least, most) = (LoadFactor::LEAST, LoadFactor::MOST);
        let why = || format!("{at}.loadFactorPercent: {percent} is not from {least} to {most}");
        LoadFactor::new(percent).ok_or_else(why)
    };
    Ok(ConsistentHash {
        key,
        load_factor: load_factor_percent.map(factor).transpose()?,
    })
}

fn header_key(of: &weft_policy::HashHeader, at: &str) -> Result<HashKey, String> {
    let weft_policy::HashHeader { name } = of;
    let valid = HeaderName::from_bytes(name.as_bytes()).ok();
    let valid = valid.filter(|_| name.len() <= MAX_NAME);
    let why = || format!("{at}.header.name: {name:?} is not the name of a header");
    valid.map(HashKey::Header).ok_or_else(why)
}

fn query_key(of: &weft_policy::HashQueryParameter, at: &str) -> Result<HashKey, String> {
    let weft_policy::HashQueryParameter { name } = of;
    match name.len() {
        1..=MAX_NAME => Ok(HashKey::QueryParameter(name.clone())),
        _ => Err(format!(
            "{at}.queryParameter.name: has {} characters, not from 1 to {MAX_NAME}",
            name.len()
        )),
    }
}

fn cookie_key(of: &weft_policy::HashCookie, at: &str) -> Result<HashKey, String> {
    let weft_policy::HashCookie { name, ttl, path } = of;
    let at = format!("{at}.cookie");
    let ttl = time(ttl, &at, "ttl")?;
    let path = path.as_deref().unwrap_or("/");
    if name.len() > MAX_NAME || HashCookie::new(name, "/", None).is_none() {
        return Err(format!("{at}.name: {name:?} is not the name of a cookie"));
    }
    if path.len() > MAX_PATH || HashCookie::new(name, path, None).is_none() {
        return Err(format!("{at}.path: {path:?} is not the path of a cookie"));
    }
    if ttl.is_some() && has_reserved_prefix(name) {
        return Err(format!(
            "{at}.name: clients take cookies whose names begin with __Host- or __Secure- over \
             HTTPS only, and with an attribute that is not set; choose another name"
        ));
    }
    let cookie = HashCookie::new(name, path, ttl);
    cookie.map(HashKey::Cookie).ok_or_else(|| {
        let ttl = ttl.unwrap_or_default();
        let most = HashCookie::MOST_TTL.as_secs() / 3600;
        format!("{at}.ttl: {ttl:?} is not a number of whole seconds up to {most}h")
    })
}

/// RFC 6265bis, 4.1.3.
fn has_reserved_prefix(name: &str) -> bool {
    ["__host-", "__secure-"].iter().any(|prefix| {
        let begin = name.get(..prefix.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reserved_prefixes_are_found_in_any_case() {
        for (name, is_reserved) in [
            ("__Host-a", true),
            ("__SECURE-a", true),
            ("__Hosta", false),
            ("a__Host-", false),
            ("ä", false),
        ] {
            assert_eq!(has_reserved_prefix(name), is_reserved, "{name}");
        }
        assert_eq!(Duration::from_secs(9600 * 3600), HashCookie::MOST_TTL);
    }
}

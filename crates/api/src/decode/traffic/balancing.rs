//! Decodes load balancing. A value of a newer controller that this proxy does not know is as
//! without the field.

use std::time::Duration;

use http::HeaderName;
use weft_ir::{
    Algorithm, BalancingMethod, ConsistentHash, HashCookie, HashKey, LoadBalancing, LoadFactor,
    SlowStart, ZonePreference,
};

use crate::decode::{Decoded, invalid};
use crate::proto;
use proto::consistent_hash::Key;
use proto::load_balancing::Algorithm as Wire;

pub(super) fn section(wire: proto::LoadBalancing) -> Decoded<LoadBalancing> {
    let zones = match wire.zones() {
        proto::ZonePreference::Unspecified => ZonePreference::Service,
        proto::ZonePreference::Prefer => ZonePreference::Prefer,
        proto::ZonePreference::Require => ZonePreference::Require,
        proto::ZonePreference::Disabled => ZonePreference::Disabled,
    };
    let method = match wire.algorithm {
        None => None,
        Some(Wire::PerRequest(wire)) => per_request(&wire)?,
        Some(Wire::ConsistentHash(wire)) => hash(wire)?.map(BalancingMethod::ConsistentHash),
    };
    let method = method.unwrap_or_default();
    Ok(LoadBalancing { method, zones })
}

fn per_request(wire: &proto::PerRequestBalancing) -> Decoded<Option<BalancingMethod>> {
    let algorithm = match wire.algorithm() {
        proto::BalancingAlgorithm::Unspecified => return Ok(None),
        proto::BalancingAlgorithm::PeakEwma => Algorithm::PeakEwma,
        proto::BalancingAlgorithm::LeastRequest => Algorithm::LeastRequest,
        proto::BalancingAlgorithm::RoundRobin => Algorithm::RoundRobin,
        proto::BalancingAlgorithm::Random => Algorithm::Random,
    };
    let slow_start = match wire.slow_start_milliseconds {
        0 => None,
        milliseconds => {
            let window = SlowStart::new(Duration::from_millis(milliseconds.into()));
            let field = "load_balancing.slow_start_milliseconds";
            Some(window.ok_or_else(|| invalid(field)(&milliseconds))?)
        }
    };
    Ok(Some(BalancingMethod::PerRequest {
        algorithm,
        slow_start,
    }))
}

fn hash(wire: proto::ConsistentHash) -> Decoded<Option<ConsistentHash>> {
    let proto::ConsistentHash {
        key,
        load_factor_percent,
    } = wire;
    let key = match key {
        None => return Ok(None),
        Some(Key::Header(name)) => {
            let name = HeaderName::from_bytes(name.as_bytes());
            HashKey::Header(name.map_err(|why| invalid("load_balancing.header")(&why))?)
        }
        Some(Key::Cookie(wire)) => HashKey::Cookie(cookie(&wire)?),
        Some(Key::QueryParameter(name)) => HashKey::QueryParameter(name),
        Some(Key::SourceAddress(proto::SourceAddress {})) => HashKey::SourceAddress,
    };
    let load_factor = match load_factor_percent {
        0 => None,
        percent => {
            let field = "load_balancing.load_factor_percent";
            Some(LoadFactor::new(percent).ok_or_else(|| invalid(field)(&percent))?)
        }
    };
    Ok(Some(ConsistentHash { key, load_factor }))
}

fn cookie(wire: &proto::HashCookie) -> Decoded<HashCookie> {
    let proto::HashCookie {
        name,
        path,
        ttl_seconds,
    } = wire;
    let ttl = ttl_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    let cookie = HashCookie::new(name, path, ttl);
    cookie.ok_or_else(|| {
        invalid("load_balancing.cookie")(&format_args!("{name:?} at {path:?} for {ttl:?}"))
    })
}

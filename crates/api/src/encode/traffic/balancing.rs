//! Encodes load balancing.

use weft_ir::{
    Algorithm, BalancingMethod, ConsistentHash, HashCookie, HashKey, LoadBalancing, ZonePreference,
};

use super::milliseconds;
use crate::proto;
use proto::consistent_hash::Key;
use proto::load_balancing::Algorithm as Wire;

pub(super) fn section(of: &LoadBalancing) -> proto::LoadBalancing {
    let LoadBalancing { method, zones } = of;
    let algorithm = match method {
        BalancingMethod::PerRequest {
            algorithm,
            slow_start,
        } => Wire::PerRequest(proto::PerRequestBalancing {
            algorithm: match algorithm {
                Algorithm::PeakEwma => proto::BalancingAlgorithm::PeakEwma,
                Algorithm::LeastRequest => proto::BalancingAlgorithm::LeastRequest,
                Algorithm::RoundRobin => proto::BalancingAlgorithm::RoundRobin,
                Algorithm::Random => proto::BalancingAlgorithm::Random,
            }
            .into(),
            slow_start_milliseconds: slow_start.map_or(0, |of| milliseconds(of.window())),
        }),
        BalancingMethod::ConsistentHash(of) => Wire::ConsistentHash(hash(of)),
    };
    proto::LoadBalancing {
        algorithm: Some(algorithm),
        zones: match zones {
            ZonePreference::Service => proto::ZonePreference::Unspecified,
            ZonePreference::Prefer => proto::ZonePreference::Prefer,
            ZonePreference::Require => proto::ZonePreference::Require,
            ZonePreference::Disabled => proto::ZonePreference::Disabled,
        }
        .into(),
    }
}

fn hash(of: &ConsistentHash) -> proto::ConsistentHash {
    let ConsistentHash { key, load_factor } = of;
    let key = match key {
        HashKey::Header(name) => Key::Header(name.to_string()),
        HashKey::Cookie(cookie) => Key::Cookie(self::cookie(cookie)),
        HashKey::QueryParameter(name) => Key::QueryParameter(name.clone()),
        HashKey::SourceAddress => Key::SourceAddress(proto::SourceAddress {}),
    };
    proto::ConsistentHash {
        key: Some(key),
        load_factor_percent: load_factor.map_or(0, |of| of.percent().into()),
    }
}

fn cookie(of: &HashCookie) -> proto::HashCookie {
    let seconds = |ttl: std::time::Duration| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX);
    proto::HashCookie {
        name: of.name().to_owned(),
        path: of.path().to_owned(),
        ttl_seconds: of.ttl().map(seconds),
    }
}

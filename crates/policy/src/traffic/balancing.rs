//! Load balancing.
//!
//! Source: Envoy, `config.cluster.v3.Cluster` (`ring_hash_lb_config`, `hash_balance_factor`,
//! `slow_start_config`), and `config.route.v3.RouteAction.HashPolicy`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which of the endpoints that are preferred and healthy takes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.algorithm) || has(self.slowStart) || has(self.zonePreference)")
        .message("algorithm, slowStart or zonePreference is required"),
    validation = Rule::new("(has(self.algorithm) && self.algorithm == 'ConsistentHash') == has(self.consistentHash)")
        .message("consistentHash is required with the algorithm ConsistentHash, and only with it"),
    validation = Rule::new("!has(self.consistentHash) || !has(self.slowStart)")
        .message("the algorithm ConsistentHash has no slowStart")
)]
pub struct LoadBalancing {
    /// `PeakEwma` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<BalancingAlgorithm>,
    /// What requests have in common that go to the same endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// An endpoint that is new gets a growing share of the requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Which endpoints are preferred; `Service` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone_preference: Option<ZonePreference>,
}

/// Which endpoints are preferred by where they and the client are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ZonePreference {
    /// Those that the Service's `trafficDistribution` prefers.
    Service,
    /// Those in the client's zone, while one of them is healthy and not overloaded.
    Prefer,
    /// Those in the client's zone, and no others are used: without one requests fail.
    Require,
    /// None.
    Disabled,
}

/// How an endpoint is chosen. Each client proxy goes by its own requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum BalancingAlgorithm {
    /// Of two random endpoints the one with the lower latency, times its requests in flight. The
    /// latency is a moving average that follows peaks at once.
    PeakEwma,
    /// Of two random endpoints the one with fewer requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// The one that `consistentHash` leads to.
    ConsistentHash,
}

/// Requests with the same key go to the same endpoint, whichever proxy sends them. An endpoint that
/// comes or goes moves few keys. Requests without the key are balanced as by `PeakEwma`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("(self.type == 'Header') == has(self.header) && (self.type == 'Cookie') == has(self.cookie) && (self.type == 'QueryParameter') == has(self.queryParameter)")
        .message("exactly the field that the type names is required; SourceAddress has none")
)]
pub struct ConsistentHash {
    /// Where the key is.
    #[serde(rename = "type")]
    pub kind: HashKeyType,
    /// The header that is the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HashHeader>,
    /// The cookie that is the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<HashCookie>,
    /// The query parameter that is the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_parameter: Option<HashQueryParameter>,
    /// Bounded load: an endpoint with more requests of the proxy in flight than this percentage of
    /// the average is passed over for the next one. 100 to 1000; absent: not bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 1000))]
    pub load_factor_percent: Option<u32>,
}

/// Which field of a [`ConsistentHash`] is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum HashKeyType {
    /// `header`.
    Header,
    /// `cookie`.
    Cookie,
    /// `queryParameter`.
    QueryParameter,
    /// The address that the client connects from. No field.
    SourceAddress,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashHeader {
    /// The name, in any case.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
}

/// A cookie.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashCookie {
    /// The name.
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
    )]
    pub name: String,
    /// How long the client keeps a cookie that is made for it: whole seconds up to 9600h (400
    /// days); `0s` until its session ends. Absent: no cookie is made for clients without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub ttl: Option<String>,
    /// The paths for which the client sends the cookie that is made: this one and those below it;
    /// `/` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^/[!-:<-~]*$"))]
    pub path: Option<String>,
}

/// A query parameter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HashQueryParameter {
    /// The name, decoded.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
}

/// The share of an endpoint grows from a tenth to the whole while it is new: for `window` from when
/// a proxy first hears of it. Endpoints that a proxy gets with its first configuration are not new.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SlowStart {
    /// 1s to 1h.
    #[schemars(regex(pattern = "^([0-9]{1,5}(h|m|s|ms)){1,4}$"), length(max = 32))]
    pub window: String,
}

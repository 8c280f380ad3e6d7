//! Which endpoint takes a request, among those that a caller offers. Pure but for the loads.
//!
//! Knows neither connections nor health; a caller that meets a dead endpoint asks again and leaves
//! it out.

mod key;
mod load;
mod random;
mod ring;
mod round_robin;
mod slow_start;
mod two_choices;
mod weighted;
mod xxh64;

pub use key::Key;
pub use load::Load;
pub use weighted::weighted;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderValue;
use http::request::Parts;
use weft_ir::{Algorithm, BalancingMethod, ConsistentHash, HashKey, SlowStart};

use ring::Ring;
use round_robin::Turns;
use slow_start::WarmUp;

use crate::clock::Timestamp;

/// The load balancing of a cluster, for one version of its endpoints.
#[derive(Default)]
pub struct Balancing {
    algorithm: Balancer,
    by_key: Option<ByKey>,
    slow_start: Option<(SlowStart, WarmUp)>,
}

/// How an endpoint is chosen for a request by itself.
#[derive(Default)]
enum Balancer {
    #[default]
    PeakEwma,
    LeastRequest,
    /// With the number of endpoints.
    RoundRobin(Arc<Turns>, usize),
    Random,
}

/// How an endpoint is chosen for a request with a key.
pub struct ByKey {
    settings: ConsistentHash,
    ring: Arc<Ring>,
}

/// The key of a request, and a field that makes its client keep it.
#[derive(Default)]
pub struct RequestKey {
    pub key: Option<Key>,
    /// Boxed: few requests have one.
    pub set_cookie: Option<Box<HeaderValue>>,
}

impl Balancing {
    /// `before`: the version before, and its endpoints; `None` for the first version.
    pub fn new(
        settings: Option<&BalancingMethod>,
        addresses: &[SocketAddr],
        before: Option<(&Self, &[SocketAddr])>,
        now: Timestamp,
    ) -> Self {
        match settings {
            None => Self::default(),
            Some(BalancingMethod::PerRequest {
                algorithm,
                slow_start,
            }) => Self {
                algorithm: {
                    let before = before.map(|(before, _)| &before.algorithm);
                    Balancer::new(*algorithm, addresses.len(), before)
                },
                by_key: None,
                slow_start: slow_start.map(|settings| {
                    let before = before.map(|(of, known)| {
                        let ages = of.slow_start.as_ref().map(|(_, ages)| ages);
                        (known, ages)
                    });
                    (settings, WarmUp::new(settings, addresses, before, now))
                }),
            },
            Some(BalancingMethod::ConsistentHash(settings)) => {
                // The endpoints are often the same, and their order too.
                let same = before.filter(|(_, known)| *known == addresses);
                let known = same.and_then(|(before, _)| before.by_key.as_ref());
                let ring = match known {
                    Some(known) => Arc::clone(&known.ring),
                    None => Arc::new(Ring::new(addresses)),
                };
                let settings = settings.clone();
                Self {
                    by_key: Some(ByKey { settings, ring }),
                    ..Self::default()
                }
            }
        }
    }

    /// The settings that this was made of.
    pub fn settings(&self) -> BalancingMethod {
        if let Some(ByKey { settings, .. }) = &self.by_key {
            return BalancingMethod::ConsistentHash(settings.clone());
        }
        BalancingMethod::PerRequest {
            algorithm: match self.algorithm {
                Balancer::PeakEwma => Algorithm::PeakEwma,
                Balancer::LeastRequest => Algorithm::LeastRequest,
                Balancer::RoundRobin(..) => Algorithm::RoundRobin,
                Balancer::Random => Algorithm::Random,
            },
            slow_start: self.slow_start.as_ref().map(|(settings, _)| *settings),
        }
    }

    /// How requests with a key are balanced, if they are by their key.
    pub fn by_key(&self) -> Option<&ByKey> {
        self.by_key.as_ref()
    }

    /// Returns true if a preferred endpoint is so busy that one that is not preferred may be
    /// better.
    pub fn may_spill(&self, preferred: &Load) -> bool {
        self.algorithm.may_spill(preferred)
    }

    /// Returns true if a preferred endpoint has too much to do beside another.
    pub fn should_spill(&self, preferred: &Load, other: &Load, now: Timestamp) -> bool {
        self.algorithm.should_spill(preferred, other, now)
    }

    /// Picks among `count` endpoints from `first` on, of which `load` gives the load; `None` for a
    /// place is one to leave out. `None` when all are left out.
    pub fn pick<'a>(
        &self,
        (first, count): (usize, usize),
        now: Timestamp,
        random: &mut fastrand::Rng,
        load: impl Fn(usize) -> Option<&'a Load>,
    ) -> Option<usize> {
        let load = |at: usize| load(first + at);
        let warm_up = self.slow_start.as_ref().map(|(_, warm_up)| warm_up);
        let picked = match warm_up.filter(|of| of.is_under_way(now)) {
            None => self.algorithm.pick(count, now, random, load),
            Some(warm_up) => {
                let drawn = random.f64();
                let admitted = |at: usize| {
                    let admits = warm_up.share(first + at, now) > drawn;
                    admits.then(|| load(at)).flatten()
                };
                let picked = self.algorithm.pick(count, now, random, admitted);
                // If only new ones fit they share all requests.
                picked.or_else(|| self.algorithm.pick(count, now, random, load))
            }
        };
        picked.map(|at| first + at)
    }
}

impl Balancer {
    fn new(algorithm: Algorithm, count: usize, before: Option<&Self>) -> Self {
        match (algorithm, before) {
            (Algorithm::PeakEwma, _) => Self::PeakEwma,
            (Algorithm::LeastRequest, _) => Self::LeastRequest,
            (Algorithm::Random, _) => Self::Random,
            (Algorithm::RoundRobin, Some(Self::RoundRobin(turns, _))) => {
                Self::RoundRobin(Arc::clone(turns), count)
            }
            (Algorithm::RoundRobin, _) => {
                let first = fastrand::u32(..) as usize;
                Self::RoundRobin(Arc::new(Turns::starting_at(first)), count)
            }
        }
    }

    fn pick<'a>(
        &self,
        count: usize,
        now: Timestamp,
        random: &mut fastrand::Rng,
        load: impl Fn(usize) -> Option<&'a Load>,
    ) -> Option<usize> {
        match self {
            Self::PeakEwma => {
                two_choices::pick(count, random, load, |load| load.expected_wait(now))
            }
            Self::LeastRequest => {
                two_choices::pick(count, random, load, |load| f64::from(load.active()))
            }
            Self::RoundRobin(turns, total) => turns.pick(count, *total, |at| load(at).is_some()),
            Self::Random => random::pick(count, random, |at| load(at).is_some()),
        }
    }

    fn may_spill(&self, preferred: &Load) -> bool {
        let goes_by_load = matches!(self, Self::PeakEwma | Self::LeastRequest);
        goes_by_load && preferred.active() >= CROWDED_REQUESTS
    }

    fn should_spill(&self, preferred: &Load, other: &Load, now: Timestamp) -> bool {
        let cost = |load: &Load| match self {
            Self::LeastRequest => f64::from(load.active() + 1),
            _ => load.expected_wait(now),
        };
        self.may_spill(preferred) && cost(preferred) > OVERLOAD_FACTOR * cost(other)
    }
}

/// Requests in flight at which it is asked whether an endpoint has too much to do.
const CROWDED_REQUESTS: u32 = 32;
/// How many times the cost of another one that is.
const OVERLOAD_FACTOR: f64 = 4.0;

impl ByKey {
    /// Returns the key of a request. `client` is `None` if it is sent for no particular client:
    /// then nobody would keep a cookie.
    pub fn of_request(&self, head: &Parts, client: Option<IpAddr>) -> RequestKey {
        let from = &self.settings.key;
        match (Key::of_request(from, head, client), from) {
            (None, HashKey::Cookie(cookie)) if client.is_some() => {
                // Whoever knows a value can choose an endpoint, and no more.
                let made = key::new_cookie(cookie, fastrand::u64(..));
                made.map_or_else(RequestKey::default, |(key, field)| RequestKey {
                    key: Some(key),
                    set_cookie: Some(Box::new(field)),
                })
            }
            (key, _) => RequestKey {
                key,
                set_cookie: None,
            },
        }
    }

    /// Returns the key of a connection, of which nothing is known but its client.
    pub fn of_connection(&self, client: IpAddr) -> Option<Key> {
        let by_source = self.settings.key == HashKey::SourceAddress;
        by_source.then(|| Key::of_address(client))
    }

    /// Picks an endpoint that fits; `active` gives its requests in flight.
    pub fn pick(
        &self,
        key: Key,
        fits: impl Fn(usize) -> bool,
        active: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        match self.settings.load_factor {
            None => self.ring.find(key, fits),
            Some(factor) => self.ring.find_bounded(key, factor, fits, active),
        }
    }
}

#[cfg(test)]
mod tests;

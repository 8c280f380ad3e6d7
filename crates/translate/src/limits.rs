//! Limits on the configuration that one object, or all objects sharing a port, can make proxies
//! hold.
//!
//! Whatever exceeds a limit is rejected at the expense of its owner: the route or listener is not
//! accepted, and its condition states the size and the limit. Sizes are upper bounds of the encoded
//! size (`weft_ir::Rule::wire_size`), so whatever is accepted here fits into one resource: the
//! controller sends at most 12 MiB, and a proxy accepts resources of up to 16 MiB.

use std::collections::HashSet;

use weft_ir::{Pattern, Rule};

use crate::conditions::Fault;

/// Encoded size of the rules of one route, in bytes.
pub(crate) const ROUTE_BYTES: usize = 512 * 1024;
/// Number of distinct regular expressions in one route.
pub(crate) const ROUTE_PATTERNS: usize = 128;
/// Total length of their text, in bytes.
pub(crate) const ROUTE_PATTERN_TEXT: usize = 64 * 1024;
/// Total number of their character classes, which cost far more to parse than their text suggests.
pub(crate) const ROUTE_CLASSES: usize = 512;
/// Total size of their compiled form, in bytes.
pub(crate) const ROUTE_COMPILED: usize = 4 * 1024 * 1024;
/// Compiled size, in bytes, that a regular expression counts as if it exceeds the limit of one.
pub(crate) const PATTERN_COMPILED: usize = 256 * 1024;
/// Encoded size of the rules on a Gateway port with the hosts that they apply to, in bytes.
const PORT_BYTES: usize = 5 * 1024 * 1024;
/// Compiled size of the regular expressions of these rules, in bytes.
const PORT_COMPILED: usize = 32 * 1024 * 1024;
/// Encoded size of the listeners of a Gateway port with their certificates and CA bundles, in
/// bytes.
pub(crate) const LISTENERS_BYTES: usize = 6 * 1024 * 1024;
/// Encoded size of the rules on a Service port, of one kind and for clients of one namespace, in
/// bytes.
const SERVICE_BYTES: usize = 4 * 1024 * 1024;
/// Compiled size of the regular expressions of these rules, in bytes.
const SERVICE_COMPILED: usize = 16 * 1024 * 1024;
/// Number of rules of an authorization policy.
pub(crate) const POLICY_RULES: usize = 64;
/// Number of sources in all its rules.
pub(crate) const POLICY_SOURCES: usize = 1024;
/// Encoded size of its rules for one target, in bytes.
pub(crate) const POLICY_BYTES: usize = 256 * 1024;
/// Compiled size of their regular expressions, in bytes.
pub(crate) const POLICY_PATTERNS: usize = 2 * 1024 * 1024;
/// Encoded size of the authorization policies that one proxy enforces, in bytes; one that applies
/// at several listeners or routes counts at each.
pub(crate) const PROXY_POLICY_BYTES: usize = 6 * 1024 * 1024;
/// Compiled size of their regular expressions, in bytes.
pub(crate) const PROXY_POLICY_COMPILED: usize = 32 * 1024 * 1024;
/// Number of providers of an authentication policy.
pub(crate) const POLICY_PROVIDERS: usize = 8;
/// Bytes of a key set in a policy.
pub(crate) const INLINE_JWKS_BYTES: usize = 32 * 1024;
/// Bytes of any key set.
pub(crate) const JWKS_BYTES: usize = 64 * 1024;
/// Number of keys of a key set.
pub(crate) const JWKS_KEYS: usize = 64;
/// Number of endpoints of a Service port.
pub(crate) const ENDPOINTS: usize = 10_000;

/// The size of rules, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Encoded.
    pub(crate) bytes: usize,
    /// Compiled regular expressions, each distinct one counted once.
    pub(crate) compiled: usize,
}

impl Size {
    pub(crate) fn of_requests<'r>(rules: impl Iterator<Item = &'r Rule>) -> Self {
        let mut size = Self::default();
        let mut seen = HashSet::new();
        for rule in rules {
            size.bytes += rule.wire_size();
            let new = rule.patterns().filter(|of| seen.insert(of.as_str()));
            size.compiled += new.map(Pattern::compiled_size).sum::<usize>();
        }
        size
    }

    /// Returns a fault if the size exceeds the limit of a route.
    pub(crate) fn too_large(self) -> Option<Fault> {
        (self.bytes > ROUTE_BYTES).then(|| {
            too_large(format!(
                "its rules take {} bytes, and the limit of a route is {ROUTE_BYTES}; split it \
                 into several routes",
                self.bytes
            ))
        })
    }
}

pub(crate) fn too_large(text: String) -> Fault {
    Fault {
        reason: "TooLarge",
        text,
    }
}

/// The remaining capacity of a port shared by several routes. Routes are added in tie-breaking
/// order, so the youngest ones are those that do not fit.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: Size,
    used: Size,
}

impl Budget {
    /// The capacity of a Gateway port.
    pub(crate) fn of_gateway_port() -> Self {
        Self {
            limit: Size {
                bytes: PORT_BYTES,
                compiled: PORT_COMPILED,
            },
            used: Size::default(),
        }
    }

    /// The share of a Gateway port that the routes of one namespace other than the Gateway's own
    /// can use: half of it, so that no tenant fills a port that others share.
    pub(crate) fn of_namespace() -> Self {
        let Self { limit, used } = Self::of_gateway_port();
        Self {
            limit: Size {
                bytes: limit.bytes / 2,
                compiled: limit.compiled / 2,
            },
            used,
        }
    }

    /// The capacity of a Service port.
    pub(crate) fn of_service_port() -> Self {
        Self {
            limit: Size {
                bytes: SERVICE_BYTES,
                compiled: SERVICE_COMPILED,
            },
            used: Size::default(),
        }
    }

    /// Adds a route. Returns an error for its condition if there is no room; `port` is the name
    /// used in that message.
    pub(crate) fn take(&mut self, wanted: Size, port: &str) -> Result<(), String> {
        self.used = self.with(wanted, port)?;
        Ok(())
    }

    /// Returns the used capacity including a route, or an error if there is no room for it.
    pub(crate) fn with(&self, wanted: Size, port: &str) -> Result<Size, String> {
        let now = Size {
            bytes: self.used.bytes + wanted.bytes,
            compiled: self.used.compiled + wanted.compiled,
        };
        let over = |now: usize, wanted: usize, limit: usize, of: &str| {
            (now > limit).then(|| {
                format!(
                    "{port} has no room for the route: {of} takes {wanted} bytes, and older \
                     routes already use {} of {limit}; attach fewer or smaller routes, or use \
                     another port",
                    now - wanted
                )
            })
        };
        let bytes = over(
            now.bytes,
            wanted.bytes,
            self.limit.bytes,
            "its configuration",
        );
        let compiled = || {
            let of = "the compiled form of its regular expressions";
            over(now.compiled, wanted.compiled, self.limit.compiled, of)
        };
        match bytes.or_else(compiled) {
            Some(why) => Err(why),
            None => Ok(now),
        }
    }
}

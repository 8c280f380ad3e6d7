//! How much one object, and all that share a port, may make proxies hold.
//!
//! What does not fit costs its owner: the route or listener is not accepted, with its size and the limit in the
//! condition. Sizes are upper bounds of what is sent (`weft_ir::Rule::wire_size`), so that whatever is admitted here fits
//! into one resource: the controller sends none of more than 12 MiB, and a proxy takes resources of 16 MiB.

use std::collections::HashSet;

use weft_ir::{Pattern, Rule};

use crate::conditions::Fault;

/// Of the rules of one route, in bytes.
pub(crate) const ROUTE_BYTES: usize = 512 * 1024;
/// Different regular expressions in one route.
pub(crate) const ROUTE_PATTERNS: usize = 128;
/// Of the text of all of them, in bytes.
pub(crate) const ROUTE_PATTERN_TEXT: usize = 64 * 1024;
/// Character classes in all of them: reading one costs far more than its text.
pub(crate) const ROUTE_CLASSES: usize = 512;
/// Of all of them compiled, in bytes.
pub(crate) const ROUTE_COMPILED: usize = 4 * 1024 * 1024;
/// What one that is too large counts as.
pub(crate) const PATTERN_COMPILED: usize = 256 * 1024;
/// Of the rules on a Gateway's port with the hosts that they are for, in bytes.
const PORT_BYTES: usize = 5 * 1024 * 1024;
/// Of the regular expressions of these rules, compiled, in bytes.
const PORT_COMPILED: usize = 32 * 1024 * 1024;
/// Of the listeners of a Gateway's port with their certificates and authorities, in bytes.
pub(crate) const LISTENERS_BYTES: usize = 6 * 1024 * 1024;
/// Of the rules on a Service port, of one kind and for clients of one namespace, in bytes.
const SERVICE_BYTES: usize = 4 * 1024 * 1024;
/// Of the regular expressions of these rules, compiled, in bytes.
const SERVICE_COMPILED: usize = 16 * 1024 * 1024;
/// Endpoints of a Service port.
pub(crate) const ENDPOINTS: usize = 10_000;

/// What rules take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// On the wire.
    pub(crate) bytes: usize,
    /// Regular expressions, compiled, each once.
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

    /// Why no route may be as large as this.
    pub(crate) fn too_large(self) -> Option<Fault> {
        (self.bytes > ROUTE_BYTES).then(|| {
            too_large(format!(
                "its rules take {} bytes, and a route may take {ROUTE_BYTES}: split it into several routes",
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

/// What is left of a port that several routes share. They are taken in the order that decides ties, so that what does not
/// fit any longer is the youngest.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: Size,
    used: Size,
}

impl Budget {
    /// Of a Gateway's port.
    pub(crate) fn of_gateway_port() -> Self {
        Self {
            limit: Size {
                bytes: PORT_BYTES,
                compiled: PORT_COMPILED,
            },
            used: Size::default(),
        }
    }

    /// Of the routes on a Gateway's port that a namespace other than the Gateway's own may have there: half, so that no
    /// tenant fills a port that others share.
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

    /// Of a Service port.
    pub(crate) fn of_service_port() -> Self {
        Self {
            limit: Size {
                bytes: SERVICE_BYTES,
                compiled: SERVICE_COMPILED,
            },
            used: Size::default(),
        }
    }

    /// Takes what a route needs, or says why there is no room for it. `port`: for the message.
    pub(crate) fn take(&mut self, wanted: Size, port: &str) -> Result<(), String> {
        self.used = self.with(wanted, port)?;
        Ok(())
    }

    /// What is taken with what a route needs, or why there is no room for it.
    pub(crate) fn with(&self, wanted: Size, port: &str) -> Result<Size, String> {
        let now = Size {
            bytes: self.used.bytes + wanted.bytes,
            compiled: self.used.compiled + wanted.compiled,
        };
        let over = |now: usize, wanted: usize, limit: usize, of: &str| {
            (now > limit).then(|| {
                format!(
                    "{port} has no room for the route: {of} takes {wanted} bytes, and {} of {limit} are taken by older \
                     routes; make routes there smaller or fewer, or use another port",
                    now - wanted
                )
            })
        };
        let bytes = over(now.bytes, wanted.bytes, self.limit.bytes, "what it routes");
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

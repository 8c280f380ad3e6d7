//! Listeners that cannot be told apart.
//!
//! Source: `GatewaySpec.listeners`, "Distinct Listeners"; `ListenerSetSpec.listeners`: those of the Gateway go before those
//! of its ListenerSets, and these before each other by age and name. Within one object nobody wins.

use std::collections::HashMap;

use weft_ir::{HostPattern, Transport};

use super::listeners::{Bound, Socket, Speaks};
use crate::conditions::Fault;

/// What the listeners of a port must have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Http,
    /// HTTPS and TLS: told apart by the server's name.
    Tls,
    /// Nothing tells connections apart.
    Stream,
}

fn family(speaks: Speaks) -> Family {
    match speaks {
        Speaks::Http => Family::Http,
        Speaks::Https | Speaks::TlsTerminated | Speaks::TlsPassed => Family::Tls,
        Speaks::Tcp | Speaks::Udp => Family::Stream,
    }
}

/// A listener that holds its place.
#[derive(Clone)]
struct Holder {
    family: Family,
    hostname: Option<HostPattern>,
    /// For messages.
    label: String,
}

/// The places that are taken so far.
#[derive(Default)]
pub(crate) struct Taken(HashMap<(Transport, u16), Vec<Holder>>);

impl Taken {
    /// Gives the listeners of one object their places, or their conflicts.
    pub(crate) fn add(&mut self, listeners: &mut [Bound<'_>]) {
        for listener in &mut *listeners {
            let Ok(socket) = &listener.socket else {
                continue;
            };
            let holders = self.0.get(&key(socket)).into_iter().flatten();
            listener.conflict = first_conflict(socket, holders);
        }
        let candidates: Vec<(usize, Socket, String)> = listeners
            .iter()
            .enumerate()
            .filter(|(_, listener)| listener.conflict.is_none())
            .filter_map(|(place, listener)| {
                let socket = listener.socket.as_ref().ok()?;
                Some((place, socket.clone(), listener.label.to_string()))
            })
            .collect();
        for (place, socket, _) in &candidates {
            let others = candidates.iter().filter(|(other, ..)| other != place);
            let others = others.filter(|(_, other, _)| key(other) == key(socket));
            let others: Vec<Holder> = others
                .map(|(_, socket, label)| holder(socket, label))
                .collect();
            listeners[*place].conflict = first_conflict(socket, others.iter());
        }
        for (place, socket, label) in &candidates {
            if listeners[*place].conflict.is_none() {
                let holders = self.0.entry(key(socket)).or_default();
                holders.push(holder(socket, label));
            }
        }
    }
}

fn key(socket: &Socket) -> (Transport, u16) {
    (socket.speaks.transport(), socket.port)
}

fn holder(socket: &Socket, label: &str) -> Holder {
    Holder {
        family: family(socket.speaks),
        hostname: socket.hostname.clone(),
        label: label.to_owned(),
    }
}

/// Another protocol on the port goes before another listener with the same host.
fn first_conflict<'a>(
    socket: &Socket,
    holders: impl Iterator<Item = &'a Holder> + Clone,
) -> Option<Fault> {
    let own = family(socket.speaks);
    let port = socket.port;
    let differs = holders
        .clone()
        .find(|of| of.family != own || own == Family::Stream);
    if let Some(Holder { label, .. }) = differs {
        return Some(Fault {
            reason: "ProtocolConflict",
            text: format!(
                "listener {label} has port {port} too, and nothing would tell their connections apart; HTTP stands beside \
                 HTTP, HTTPS and TLS beside each other, TCP and UDP alone: choose another port"
            ),
        });
    }
    let same = holders.clone().find(|of| of.hostname == socket.hostname)?;
    let host = match &socket.hostname {
        Some(host) => format!("the hostname {host}"),
        None => "no hostname".to_owned(),
    };
    Some(Fault {
        reason: "HostnameConflict",
        text: format!(
            "listener {} has port {port} and {host} too; choose another hostname or port",
            same.label
        ),
    })
}

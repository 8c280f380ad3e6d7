//! Conflicts between listeners that cannot be distinguished.
//!
//! Source: `GatewaySpec.listeners`, "Distinct Listeners"; `ListenerSetSpec.listeners`: listeners of
//! the Gateway take precedence over those of its ListenerSets, which take precedence over each
//! other by age and name. Within one object, all conflicting listeners lose.

use std::collections::HashMap;

use weft_ir::{HostPattern, Transport};

use super::listeners::{BoundListener, ListenerProtocol, ListenerSocket};
use crate::conditions::Fault;

/// Listeners of one port must be of the same family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Http,
    /// HTTPS and TLS: distinguished by SNI.
    Tls,
    /// TCP and UDP: connections cannot be distinguished.
    Stream,
}

fn family(protocol: ListenerProtocol) -> Family {
    match protocol {
        ListenerProtocol::Http => Family::Http,
        ListenerProtocol::Https
        | ListenerProtocol::TlsTerminate
        | ListenerProtocol::TlsPassthrough => Family::Tls,
        ListenerProtocol::Tcp | ListenerProtocol::Udp => Family::Stream,
    }
}

/// A listener that claims a socket.
#[derive(Clone)]
struct Claim {
    family: Family,
    hostname: Option<HostPattern>,
    /// For messages.
    label: String,
}

/// The sockets claimed so far.
#[derive(Default)]
pub(crate) struct ClaimedSockets(HashMap<(Transport, u16), Vec<Claim>>);

impl ClaimedSockets {
    /// Claims the sockets of the listeners of one object, or records their conflicts.
    pub(crate) fn claim(&mut self, listeners: &mut [BoundListener<'_>]) {
        for listener in &mut *listeners {
            let Ok(socket) = &listener.socket else {
                continue;
            };
            let claims = self.0.get(&key(socket)).into_iter().flatten();
            listener.conflict = first_conflict(socket, claims);
        }
        let candidates: Vec<(usize, ListenerSocket, String)> = listeners
            .iter()
            .enumerate()
            .filter(|(_, listener)| listener.conflict.is_none())
            .filter_map(|(position, listener)| {
                let socket = listener.socket.as_ref().ok()?;
                Some((position, socket.clone(), listener.label.to_string()))
            })
            .collect();
        for (position, socket, _) in &candidates {
            let others = candidates.iter().filter(|(other, ..)| other != position);
            let others = others.filter(|(_, other, _)| key(other) == key(socket));
            let others: Vec<Claim> = others
                .map(|(_, socket, label)| new_claim(socket, label))
                .collect();
            listeners[*position].conflict = first_conflict(socket, others.iter());
        }
        for (position, socket, label) in &candidates {
            if listeners[*position].conflict.is_none() {
                let claims = self.0.entry(key(socket)).or_default();
                claims.push(new_claim(socket, label));
            }
        }
    }
}

fn key(socket: &ListenerSocket) -> (Transport, u16) {
    (socket.protocol.transport(), socket.port)
}

fn new_claim(socket: &ListenerSocket, label: &str) -> Claim {
    Claim {
        family: family(socket.protocol),
        hostname: socket.hostname.clone(),
        label: label.to_owned(),
    }
}

/// A conflict of protocols takes precedence over one of host names.
fn first_conflict<'a>(
    socket: &ListenerSocket,
    claims: impl Iterator<Item = &'a Claim> + Clone,
) -> Option<Fault> {
    let own = family(socket.protocol);
    let port = socket.port;
    let differs = claims
        .clone()
        .find(|of| of.family != own || own == Family::Stream);
    if let Some(Claim { label, .. }) = differs {
        return Some(Fault {
            reason: "ProtocolConflict",
            text: format!(
                "listener {label} uses port {port} with a protocol that cannot share it: HTTP \
                 shares a port only with HTTP, HTTPS and TLS only with each other, TCP and UDP \
                 with nothing; choose another port"
            ),
        });
    }
    let same = claims.clone().find(|of| of.hostname == socket.hostname)?;
    let host = match &socket.hostname {
        Some(host) => format!("the hostname {host}"),
        None => "no hostname".to_owned(),
    };
    Some(Fault {
        reason: "HostnameConflict",
        text: format!(
            "listener {} also uses port {port} with {host}; choose another hostname or port",
            same.label
        ),
    })
}

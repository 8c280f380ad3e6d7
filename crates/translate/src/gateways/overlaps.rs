//! TLS-terminating listeners of one port with overlapping host names: a client with a connection to
//! one can use it for hosts of the other.
//!
//! Source: the comments of `ListenerConditionOverlappingTLSConfig`, GEP-3567.

use std::collections::{BTreeMap, BTreeSet};

use weft_ir::{HostMap, HostPattern};

use super::listeners::BoundListener;

/// Number of listeners that a message lists.
const NAMED: usize = 3;

/// Records the overlaps in each listener. All listeners belong to one Gateway.
pub(crate) fn mark_overlaps<'b, 'a: 'b>(
    listeners: impl Iterator<Item = &'b mut BoundListener<'a>>,
) {
    let mut ports: BTreeMap<u16, Vec<&mut BoundListener<'_>>> = BTreeMap::new();
    for listener in listeners {
        let port = match listener.accepted() {
            Ok(socket) if socket.protocol.terminates() => socket.port,
            _ => continue,
        };
        ports.entry(port).or_default().push(listener);
    }
    for mut listeners in ports.into_values() {
        let found = overlaps(&listeners);
        let texts: Vec<Option<String>> = found.iter().map(|of| names(of, &listeners)).collect();
        for (listener, text) in listeners.iter_mut().zip(texts) {
            listener.overlapping = text;
        }
    }
}

/// Returns the overlapping listeners for each listener of a port. No two have the same host name.
fn overlaps(listeners: &[&mut BoundListener<'_>]) -> Vec<BTreeSet<usize>> {
    let mut by_host: HostMap<usize> = HostMap::default();
    for (position, listener) in listeners.iter().enumerate() {
        by_host.insert(hostname(listener).cloned(), position);
    }
    let mut all = vec![BTreeSet::new(); listeners.len()];
    for (position, listener) in listeners.iter().enumerate() {
        let host = match hostname(listener) {
            None => continue,
            Some(HostPattern::Exact(host)) => host.clone(),
            // Not a host name, but it matches the patterns that contain all names below the suffix.
            Some(HostPattern::Below(suffix)) => format!("*{suffix}"),
        };
        for wider in by_host.fitting(Some(&host)).filter(|of| **of != position) {
            all[position].insert(*wider);
            all[*wider].insert(position);
        }
    }
    all
}

fn hostname<'b>(listener: &'b BoundListener<'_>) -> Option<&'b HostPattern> {
    listener.accepted().ok()?.hostname.as_ref()
}

fn names(of: &BTreeSet<usize>, listeners: &[&mut BoundListener<'_>]) -> Option<String> {
    let named = of.iter().take(NAMED).map(|position| {
        let listener = &listeners[*position];
        let host = hostname(listener).map_or("any host".to_owned(), ToString::to_string);
        format!("{} ({host})", listener.label)
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    if of.len() > NAMED {
        text += &format!(" and {} more", of.len() - NAMED);
    }
    (!of.is_empty()).then(|| format!("listener {text}"))
}

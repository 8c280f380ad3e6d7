//! Listeners that terminate TLS on one port, of which one's hostname takes in the other's: a client that has a connection to
//! one may use it for hosts of the other.
//!
//! Source: the comments of `ListenerConditionOverlappingTLSConfig`, GEP-3567.

use std::collections::{BTreeMap, BTreeSet};

use weft_ir::{HostMap, HostPattern};

use super::listeners::Bound;

/// Listeners that a message names.
const NAMED: usize = 3;

/// Says it to each of them. All are of one Gateway.
pub(crate) fn mark<'b, 'a: 'b>(listeners: impl Iterator<Item = &'b mut Bound<'a>>) {
    let mut ports: BTreeMap<u16, Vec<&mut Bound<'_>>> = BTreeMap::new();
    for listener in listeners {
        let port = match listener.accepted() {
            Ok(socket) if socket.speaks.terminates() => socket.port,
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

/// For each listener of a port the others. No two have the same hostname.
fn overlaps(listeners: &[&mut Bound<'_>]) -> Vec<BTreeSet<usize>> {
    let mut by_host: HostMap<usize> = HostMap::default();
    for (place, listener) in listeners.iter().enumerate() {
        by_host.insert(hostname(listener).cloned(), place);
    }
    let mut all = vec![BTreeSet::new(); listeners.len()];
    for (place, listener) in listeners.iter().enumerate() {
        let host = match hostname(listener) {
            None => continue,
            Some(HostPattern::Exact(host)) => host.clone(),
            // No host: what fits it takes in all below it.
            Some(HostPattern::Below(suffix)) => format!("*{suffix}"),
        };
        for wider in by_host.fitting(Some(&host)).filter(|of| **of != place) {
            all[place].insert(*wider);
            all[*wider].insert(place);
        }
    }
    all
}

fn hostname<'b>(listener: &'b Bound<'_>) -> Option<&'b HostPattern> {
    listener.accepted().ok()?.hostname.as_ref()
}

fn names(of: &BTreeSet<usize>, listeners: &[&mut Bound<'_>]) -> Option<String> {
    let named = of.iter().take(NAMED).map(|place| {
        let listener = &listeners[*place];
        let host = hostname(listener).map_or("any host".to_owned(), ToString::to_string);
        format!("{} ({host})", listener.label)
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    if of.len() > NAMED {
        text += &format!(" and {} more", of.len() - NAMED);
    }
    (!of.is_empty()).then(|| format!("listener {text}"))
}

//! Enforces the limit on the size of the listeners of a Gateway port.

use std::collections::HashMap;

use weft_ir::Transport;

use super::listeners::{BoundListener, ListenerSocket};
use crate::limits::{LISTENERS_BYTES, too_large};

/// Size of the listeners on each port of a Gateway.
#[derive(Default)]
pub(crate) struct ListenerBudgets(HashMap<(Transport, u16), usize>);

impl ListenerBudgets {
    /// Adds listeners in order. Those that do not fit become unusable.
    pub(crate) fn take(&mut self, listeners: &mut [BoundListener<'_>]) {
        for listener in listeners {
            let Ok(ListenerSocket { port, protocol, .. }) = listener.accepted() else {
                continue;
            };
            let tls = listener
                .tls
                .as_ref()
                .map_or(0, weft_ir::ServerTls::wire_size);
            let filters = listener.filters.all.iter().map(|of| of.wire_size());
            let filters: usize = filters.sum();
            let wanted = 64 + listener.label.len() + listener.spec.hostname.len() + tls + filters;
            let used = self.0.entry((protocol.transport(), *port)).or_default();
            if *used + wanted <= LISTENERS_BYTES {
                *used += wanted;
                continue;
            }
            let why = format!(
                "port: {port} has no room for the listener: with its certificates, CA bundles and \
                 filters it takes {wanted} bytes, and other listeners already use {used} of \
                 {LISTENERS_BYTES}; use fewer or smaller certificates, or another port"
            );
            listener.socket = Err(too_large(why));
        }
    }
}

//! Whether the ports of a Gateway have room for its listeners.

use std::collections::HashMap;

use weft_ir::Transport;

use super::listeners::{Bound, Socket};
use crate::limits::{LISTENERS_BYTES, too_large};

/// What the listeners of a Gateway have taken of its ports.
#[derive(Default)]
pub(crate) struct Room(HashMap<(Transport, u16), usize>);

impl Room {
    /// Takes what listeners need, in their order. Those that there is no room for cannot be used.
    pub(crate) fn take(&mut self, listeners: &mut [Bound<'_>]) {
        for listener in listeners {
            let Ok(Socket { port, speaks, .. }) = listener.accepted() else {
                continue;
            };
            let tls = listener
                .tls
                .as_ref()
                .map_or(0, weft_ir::ServerTls::wire_size);
            let wanted = 64 + listener.label.len() + listener.spec.hostname.len() + tls;
            let used = self.0.entry((speaks.transport(), *port)).or_default();
            if *used + wanted <= LISTENERS_BYTES {
                *used += wanted;
                continue;
            }
            let why = format!(
                "port: {port} has no room for the listener: with its certificates and authorities it takes {wanted} bytes, \
                 and {used} of {LISTENERS_BYTES} are taken by other listeners; use fewer or smaller ones, or another port"
            );
            listener.socket = Err(too_large(why));
        }
    }
}

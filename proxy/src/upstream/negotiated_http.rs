//! The version of HTTP that an application negotiates over TLS, if its port does not declare one.
//!
//! The first connection offers both versions, and all requests wait for it meanwhile. The result
//! holds from then on, so that each later connection goes to the right pool; it is negotiated anew
//! when the application no longer has that version.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use weft_api::alpn;

use super::connect::ConnectError;
use super::{Endpoint, EndpointRegistry, http1};
use crate::clock::Timestamp;

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

#[derive(Default)]
pub(super) struct NegotiatedHttp {
    chosen: AtomicU8,
    /// Held during negotiation, with the error if that failed: those who waited share it.
    negotiation: tokio::sync::Mutex<Option<(Timestamp, ConnectError)>>,
}

impl NegotiatedHttp {
    fn known(&self) -> Option<bool> {
        match self.chosen.load(Relaxed) {
            HTTP1 => Some(false),
            HTTP2 => Some(true),
            _ => None,
        }
    }

    /// Has the next request negotiate again.
    pub(super) fn forget(&self) {
        self.chosen.store(UNKNOWN, Relaxed);
    }
}

impl Endpoint {
    /// Returns true if the application speaks HTTP/2; negotiates if that is unknown, and keeps the
    /// connection for the request.
    pub(super) async fn negotiates_http2(
        &self,
        registry: &EndpointRegistry,
    ) -> Result<bool, ConnectError> {
        if let Some(known) = self.negotiated.known() {
            return Ok(known);
        }
        let begun = registry.now();
        let mut failed = self.negotiated.negotiation.lock().await;
        if let Some(known) = self.negotiated.known() {
            return Ok(known);
        }
        if let Some((_, error)) = failed.as_ref().filter(|(when, _)| *when >= begun) {
            return Err(error.clone());
        }
        let negotiated = self.negotiate(registry).await;
        match &negotiated {
            Ok(http2) => {
                let chosen = if *http2 { HTTP2 } else { HTTP1 };
                self.negotiated.chosen.store(chosen, Relaxed);
            }
            Err(error) => *failed = Some((registry.now(), error.clone())),
        }
        negotiated
    }

    async fn negotiate(&self, registry: &EndpointRegistry) -> Result<bool, ConnectError> {
        let transport = registry.connect(self, alpn::H2_FOR_H1).await?;
        let http2 = transport.is_http2();
        if http2 {
            drop(self.http2.add(registry, self, transport).await?);
        } else {
            let connection = http1::handshake(self, transport).await?;
            // The pool gives out ready connections only.
            if let Some(connection) = connection.when_ready().await {
                self.http1.put(connection);
            }
        }
        Ok(http2)
    }
}

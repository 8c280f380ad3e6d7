//! Which version of HTTP an application chooses over TLS, where its port does not say.
//!
//! The first connection offers both, and all who ask meanwhile wait for it. What was chosen holds from then on, so that
//! each later connection goes to the pool that it is for; it is asked anew when the application no longer has it.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use weft_api::alpn;

use super::connect::ConnectError;
use super::{Endpoint, EndpointRegistry, http1};

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

#[derive(Default)]
pub(super) struct NegotiatedHttp {
    chosen: AtomicU8,
    /// Held while it is asked, with the outcome if that failed: those who waited share it.
    negotiation: tokio::sync::Mutex<Option<(u64, ConnectError)>>,
}

impl NegotiatedHttp {
    fn known(&self) -> Option<bool> {
        match self.chosen.load(Relaxed) {
            HTTP1 => Some(false),
            HTTP2 => Some(true),
            _ => None,
        }
    }

    /// It is to be asked again.
    pub(super) fn forget(&self) {
        self.chosen.store(UNKNOWN, Relaxed);
    }
}

impl Endpoint {
    /// Asks the application where it is not known yet; the connection that this takes is kept for the request.
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
            // Only a connection that has begun is taken from the pool.
            if let Some(connection) = connection.when_ready().await {
                self.http1.put(connection);
            }
        }
        Ok(http2)
    }
}

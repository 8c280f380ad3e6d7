//! The messages of a stream: what the proxy sends, and the updates that it is sent.

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tonic::{Status, Streaming};
use weft_api::proto::ProxyMessage;
use weft_ir::ResourceKey;

use super::super::input::{self, Input, StreamError};
use super::super::registry::StreamHandle;
use super::super::session::{Acked, Session};
use super::{Outgoing, Subscriptions};
use crate::identity::RootFingerprint;
use crate::snapshot::Snapshot;
use crate::watch::ObjectKey;

/// The maximum number of messages that are handled before the next update is made.
const BATCH: usize = 256;

/// The result of a batch of messages, beside the session's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The proxy has ended the stream.
    End,
    /// Only messages that the session handles.
    Handled,
    /// Also a request to withdraw the pod from traffic.
    Withdraw,
}

impl Subscriptions {
    /// Handles `first` and the messages that have arrived after it.
    pub(super) async fn receive(
        &self,
        first: Result<Option<ProxyMessage>, Status>,
        incoming: &mut Streaming<ProxyMessage>,
        session: &mut Session,
        registered: &StreamHandle,
        pod: &ObjectKey,
    ) -> Result<Received, StreamError> {
        let mut received = Received::Handled;
        let mut next = first;
        for count in 1.. {
            let Some(message) = next.map_err(|error| undecodable(&error))? else {
                return Ok(Received::End);
            };
            let input = input::input(message)?;
            if input == Input::Withdraw {
                received = Received::Withdraw;
            }
            if let Input::Certificate(root) = &input {
                registered.certificate(RootFingerprint::of(root));
            }
            if let Some(acked) = session.receive(input)? {
                self.record(acked, registered, pod);
            }
            if count == BATCH {
                break;
            }
            next = tokio::select! {
                biased;
                message = incoming.message() => message,
                () = std::future::ready(()) => break,
            };
        }
        Ok(received)
    }

    fn record(&self, acked: Acked, registered: &StreamHandle, pod: &ObjectKey) {
        for (key, version, reason) in &acked.refused {
            self.metrics.nacks.inc();
            tracing::warn!(
                %pod, %key, version, ?reason,
                "a proxy rejected a resource and keeps the earlier version; check that its version \
                 fits the controller's"
            );
        }
        registered.record(acked);
    }

    /// Records resources that are too large to be sent: the proxy keeps the earlier version, and
    /// the statuses of routes name the reason.
    pub(super) fn record_withheld(
        &self,
        session: &mut Session,
        registered: &StreamHandle,
        pod: &ObjectKey,
    ) {
        let withheld = session.withheld();
        if withheld.is_empty() {
            return;
        }
        for (key, version, reason) in &withheld {
            self.metrics.withheld.inc();
            tracing::error!(%pod, %key, version, "a resource was withheld: {reason}");
        }
        registered.withheld(withheld);
    }

    pub(super) fn send(
        &self,
        session: &mut Session,
        snapshot: Option<&Snapshot>,
        registered: &StreamHandle,
        outgoing: &Outgoing,
    ) -> Result<(), StreamError> {
        let Some(snapshot) = snapshot else {
            return Ok(());
        };
        while let Some(update) = session.next_update(&snapshot.encoder) {
            self.metrics.updates.inc();
            let resources = update.resources.iter();
            let resources = resources
                .filter_map(|one| Some((one.key.parse::<ResourceKey>().ok()?, one.version)));
            registered.sent(resources.clone());
            if let Some(gateway) = session.gateway_of(&snapshot.encoder) {
                let ports = resources.filter_map(|(key, version)| {
                    let routes = Arc::clone(gateway.routes.get(&key)?);
                    Some((key, version, routes))
                });
                registered.sent_routes(ports);
            }
            match outgoing.try_send(Ok(update)) {
                Ok(()) => {}
                // The channel has capacity for all unacknowledged updates.
                Err(TrySendError::Full(_)) => return Err(StreamError::UnreadAck),
                // The proxy has disconnected, which ends the stream in `serve`.
                Err(TrySendError::Closed(_)) => return Ok(()),
            }
        }
        Ok(())
    }
}

pub(super) fn undecodable(error: &Status) -> StreamError {
    StreamError::Unreadable(error.message().chars().take(256).collect())
}

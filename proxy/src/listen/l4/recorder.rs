//! What metrics and the access log say of a connection that is forwarded as bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite};
use weft_ir::Identity;

use crate::authorization::{Permit, Verdict};
use crate::drain::DrainWatch;
use crate::http::runtime::Runtime;
use crate::listen::ConnectionError;
use crate::net::tcp::{self, BytesTransferred};
use crate::telemetry::connections::ConnectionRecord;
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::labels::Direction;
use crate::telemetry::requests::RequestMetrics;

/// What is known of a connection so far, to be recorded at its end.
pub(in crate::listen) struct ConnectionRecorder<'a> {
    pub(super) runtime: &'a Runtime,
    started: Instant,
    pub(super) direction: Direction,
    closing: DrainWatch,
    pub(in crate::listen) client: SocketAddr,
    pub(in crate::listen) client_id: Option<Arc<Identity>>,
    pub(in crate::listen) server_id: Option<Arc<Identity>>,
    /// TLS of the application's own.
    pub(super) tls: bool,
    /// The TLS goes on to the application unchanged: no policy adds another.
    pub(in crate::listen) passthrough: bool,
    pub(super) server_name: Option<String>,
    pub(in crate::listen) endpoint: Option<SocketAddr>,
    /// `None` as long as nothing was done that is to be recorded.
    pub(in crate::listen) metrics: Option<Arc<RequestMetrics>>,
    pub(in crate::listen) transferred: BytesTransferred,
    /// Of a connection on which policies decide.
    permit: Option<Permit>,
}

impl<'a> ConnectionRecorder<'a> {
    pub(in crate::listen) fn outbound(runtime: &'a Runtime, client: SocketAddr, tls: bool) -> Self {
        Self {
            runtime,
            started: Instant::now(),
            direction: Direction::Outbound,
            closing: runtime.shutdown.watch(),
            client,
            client_id: Some(runtime.identity.clone()),
            server_id: None,
            tls,
            passthrough: false,
            server_name: None,
            endpoint: None,
            metrics: None,
            transferred: BytesTransferred::default(),
            permit: None,
        }
    }

    pub(in crate::listen) fn inbound(runtime: &'a Runtime, client: SocketAddr, tls: bool) -> Self {
        Self {
            direction: Direction::Inbound,
            client_id: None,
            server_id: Some(runtime.identity.clone()),
            metrics: Some(runtime.metrics.inbound.clone()),
            ..Self::outbound(runtime, client, tls)
        }
    }

    /// For a gateway's client. `closing`: when the connection is to finish.
    pub(in crate::listen) fn gateway(
        runtime: &'a Runtime,
        client: SocketAddr,
        tls: bool,
        closing: DrainWatch,
    ) -> Self {
        Self {
            direction: Direction::Gateway,
            closing,
            client_id: None,
            ..Self::outbound(runtime, client, tls)
        }
    }

    /// Keeps what was decided on the connection. Errors if it is denied.
    pub(in crate::listen) fn set_permit(&mut self, permit: Permit) -> Result<(), ConnectionError> {
        self.permit = Some(permit);
        self.permitted()
    }

    fn permitted(&self) -> Result<(), ConnectionError> {
        let verdict = self.permit.as_ref().and_then(Permit::verdict);
        match verdict.filter(|verdict| verdict.is_denied()) {
            Some(verdict) => Err(ConnectionError::refused(
                ErrorType::AuthorizationDenied,
                verdict.to_string(),
            )),
            None => Ok(()),
        }
    }

    /// Forwards bytes for as long as the connection is permitted.
    pub(in crate::listen) async fn pass<A, B>(
        &mut self,
        client: A,
        upstream: B,
    ) -> Result<(), ConnectionError>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let idle = self.runtime.bytes_idle(self.direction);
        let revoked = Permit::revocation(self.permit.as_mut());
        let (transferred, ended) =
            tcp::forward(client, upstream, &self.closing, idle, revoked).await;
        self.transferred = transferred;
        self.permitted()?;
        Ok(ended?)
    }

    /// Counts and logs the connection, and returns its result.
    pub(in crate::listen) fn finish(
        self,
        result: Result<(), ConnectionError>,
    ) -> Result<(), ConnectionError> {
        let error_type = result.as_ref().err().map(ConnectionError::error_type);
        let failed = error_type.is_some();
        if let Some(limit @ ErrorType::ClientConnectionLimit) = error_type {
            self.runtime.metrics.shed(limit);
        }
        let metrics = match self.metrics {
            Some(metrics) => metrics,
            None if failed => self.runtime.metrics.outbound_unknown.clone(),
            None => return result,
        };
        metrics.connections.ended(self.transferred, error_type);
        if self.runtime.access.wants_connection(failed) {
            let error = result.as_ref().err().map(ToString::to_string);
            let verdict = self.permit.as_ref().and_then(Permit::verdict);
            self.runtime.access.write(&ConnectionRecord {
                direction: self.direction,
                client: self.client,
                client_id: self.client_id.as_deref(),
                server_id: self.server_id.as_deref(),
                protocol: if self.tls { "tls" } else { "tcp" },
                server_name: self.server_name.as_deref(),
                route: metrics.route(),
                rule: metrics.rule(),
                backend: metrics.backend(),
                endpoint: self.endpoint,
                authorization: verdict.map(|verdict| verdict.decision),
                authorization_policy: verdict.and_then(Verdict::policy),
                error_type,
                error: error.as_deref(),
                duration: self.started.elapsed(),
                bytes_in: self.transferred.up,
                bytes_out: self.transferred.down,
            });
        }
        result
    }
}

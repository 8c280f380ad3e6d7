//! Asks an external server whether a request may pass, before it is routed (filters of listeners)
//! or sent on (filters of rules and backends).
//!
//! Source: Gateway API v1.7.0, `HTTPExternalAuthFilter`. Whatever comes instead of a decision
//! denies the request.

mod changes;
mod grpc;
mod http;
mod outbound;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use ::http::request::Parts;
use bytes::Bytes;
use http_body::Body as _;
use tokio::time::timeout;
use weft_ir::ExternalAuthProtocol;

use super::due::Due;
use super::errors::{Failure, ShortCircuit};
use super::exchange::{Downstream, Exchange};
use super::response_body::{RequestState, Response};
use crate::body::{BodyError, ClientBody, Incoming, PeekError, RequestBody};
use crate::overload::Limit;
use crate::routing::external_auth::ResolvedAuth;
use crate::telemetry::labels::AuthResult;
use crate::upstream::{Cluster, SendError, Unobserved, UpstreamRequest, UpstreamResponse};
use changes::Changes;

pub use changes::ResponseChanges;

/// Time for a server's decision.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the body of a server's response.
const MAX_RESPONSE_BODY: usize = 64 << 10;

/// Where a request came to.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub downstream: &'a Downstream,
    /// The address that the client connected to.
    pub address: SocketAddr,
    pub scheme: &'static str,
    /// The request timeout of the rule.
    pub limit: Option<Duration>,
}

/// What a server decided.
enum Decision {
    Allowed(Changes),
    Denied(Response),
}

/// Why a server decided nothing that is understood.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error(transparent)]
    Unreachable(#[from] SendError),
    #[error("no decision within {0:?}")]
    Timeout(Duration),
    #[error("its proxy answers: {0}")]
    Refused(String),
    #[error("gRPC status {0}")]
    Status(i32),
    #[error("its response is malformed: {0}")]
    Malformed(&'static str),
    #[error("its response broke off: {0}")]
    Broken(BodyError),
    #[error("its response is over {} KiB", MAX_RESPONSE_BODY >> 10)]
    TooLarge,
}

/// Passes the request on as the server allows it. Errors with the server's response if it is
/// denied.
pub async fn check(
    auth: &ResolvedAuth,
    head: &mut Parts,
    body: &mut ClientBody,
    state: &mut RequestState,
    place: Place<'_>,
) -> Result<(), ShortCircuit> {
    let cluster = match &auth.server {
        Ok(cluster) => cluster,
        Err(reason) => return Err(Failure::Misconfigured(reason.clone()).into()),
    };
    let due = Due::of(&state.exchange, place.limit);
    let limit = usize::try_from(auth.config.body_limit).unwrap_or(usize::MAX);
    let peeked = match limit {
        0 => None,
        limit => Some(due.within(peek(body, limit)).await??),
    };
    let failed = |error| Failure::ExternalAuth {
        server: cluster.name.clone(),
        error,
    };
    let asked = ask(auth, cluster, head, peeked, &state.exchange, place);
    let decided = match decision(&due, asked, failed).await {
        Ok(Decision::Allowed(changes)) => changes
            .apply(head, &mut state.granted)
            .map(|()| None)
            .map_err(failed),
        Ok(Decision::Denied(response)) => Ok(Some(response)),
        Err(failure) => Err(failure),
    };
    let (result, outcome) = match decided {
        Ok(None) => (AuthResult::Allowed, Ok(())),
        Ok(Some(response)) => {
            state.exchange.denied_by_server(&cluster.name);
            let stop = ShortCircuit::Response(Box::new(response));
            (AuthResult::Denied, Err(stop))
        }
        Err(failure) => (AuthResult::Error, Err(failure.into())),
    };
    if outcome.is_err() {
        // What an earlier server said holds for a request that passes.
        state.granted = None;
    }
    let metrics = &place.downstream.runtime.metrics;
    metrics.checked_externally(place.downstream.direction, result);
    outcome
}

async fn peek(body: &mut ClientBody, limit: usize) -> Result<Bytes, Failure> {
    body.peek(limit).await.map_err(|error| match error {
        PeekError::TooLong => Failure::BodyTooLong(limit),
        PeekError::NoMemory => Failure::Overloaded(Limit::Memory),
        PeekError::Broken(BodyError::Idle) => Failure::Upstream(SendError::BodyIdle),
        PeekError::Broken(_) => Failure::BadRequest("its body broke off"),
    })
}

async fn ask(
    auth: &ResolvedAuth,
    cluster: &Arc<Cluster>,
    head: &Parts,
    body: Option<Bytes>,
    exchange: &Exchange,
    place: Place<'_>,
) -> Result<Decision, AuthError> {
    let body = body.unwrap_or_default();
    let has_grpc_client = exchange.is_grpc();
    match &auth.config.protocol {
        ExternalAuthProtocol::Http(config) => {
            let asked = http::request(config, head, body.len())?;
            let response = send(cluster, asked, body, place).await?;
            http::decision(config, response, has_grpc_client, &head.method).await
        }
        ExternalAuthProtocol::Grpc { request_headers } => {
            let of = grpc::Client {
                address: exchange.client_address(),
                identity: place.downstream.identity.as_deref(),
            };
            let asked = grpc::check_request(request_headers, head, &body, of, place);
            let (asked, body) = grpc::request(asked, &cluster.name)?;
            let response = send(cluster, asked, body, place).await?;
            grpc::decision(response, has_grpc_client).await
        }
    }
}

async fn send(
    cluster: &Arc<Cluster>,
    head: Parts,
    body: Bytes,
    place: Place<'_>,
) -> Result<UpstreamResponse, AuthError> {
    let overload = &place.downstream.runtime.overload;
    let _counted = overload.count_request();
    let (body, replay_buffer) = RequestBody::of_bytes(body, &overload.replay);
    let request = UpstreamRequest {
        head,
        body,
        replay_buffer,
        upgrade: false,
        address: place.address,
        exclude: Vec::new(),
        client: None,
        mirrored: false,
    };
    Ok(cluster.send(request, &mut Unobserved).await?)
}

/// Reads the body of a server's response, and its trailers.
async fn read(body: Incoming) -> Result<(Bytes, Option<HeaderMap>), AuthError> {
    if body.size_hint().lower() > MAX_RESPONSE_BODY as u64 {
        return Err(AuthError::TooLarge);
    }
    let whole = body.whole(MAX_RESPONSE_BODY).await;
    whole.map_err(AuthError::Broken)?.ok_or(AuthError::TooLarge)
}

/// Waits for the server, which has less time than the request may take.
async fn decision<T>(
    due: &Due,
    of: impl Future<Output = Result<T, AuthError>>,
    failed: impl FnOnce(AuthError) -> Failure,
) -> Result<T, Failure> {
    match due.within(timeout(TIMEOUT, of)).await? {
        Ok(decided) => decided.map_err(failed),
        Err(_) => Err(failed(AuthError::Timeout(TIMEOUT))),
    }
}

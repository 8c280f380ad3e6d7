//! One request from its head to the last byte of its answer: what metrics and the access log say of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use weft_ir::Identity;

use super::bodies::{BodyError, Spare, grpc_status};
use super::errors::{ERROR, Failure, is_grpc};
use crate::listen::Context;
use crate::listen::clients::Client;
use crate::shutdown::Closing;
use crate::telemetry::access::Record;
use crate::telemetry::requests::{Direction, RequestMetrics, RequestProtocol};
use crate::upstream::Endpoint;

/// Says that the client went away before its answer; common among proxies, and sent to nobody.
const CLIENT_GONE: u16 = 499;

/// Who the requests of a connection come from.
pub struct Caller {
    pub context: Arc<Context>,
    pub direction: Direction,
    pub address: SocketAddr,
    /// Proven by its certificate, or our own for what our pod sends.
    pub identity: Option<Arc<Identity>>,
    /// When its connection is to finish.
    pub closing: Closing,
    /// Of a gateway: its place among the connections of all clients.
    pub client: Option<Arc<Client>>,
}

impl Caller {
    /// Errors when the request that came last is one too many.
    pub fn admit(&self) -> Result<(), Failure> {
        let shed = self.context.overload.request();
        shed.map_or(Ok(()), |why| Err(Failure::Overloaded(why)))
    }

    /// Whether the answer to any request of the connection has not ended; asked by the one who serves it.
    pub fn busy(self: &Arc<Self>) -> bool {
        // Each exchange holds the caller, and so does the connection.
        Arc::strong_count(self) > 1
    }

    /// Logs what came in the place of a request: hyper has answered it, and ends the connection.
    pub fn unreadable(&self, error: &hyper::Error) {
        let code = match error.is_parse_too_large() {
            true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            false => StatusCode::BAD_REQUEST,
        };
        if !self.context.access.wants(code, None, true) {
            return;
        }
        let metrics = match self.direction {
            Direction::Inbound => &self.context.metrics.inbound,
            Direction::Outbound | Direction::Gateway => &self.context.metrics.outbound_unknown,
        };
        let words = format!("bad request: {error}");
        self.context.access.write(&Record {
            direction: self.direction,
            client: Some(self.address),
            client_id: self.identity.as_deref(),
            error: Some(&words),
            ..Record::of(metrics, RequestProtocol::Http1, code)
        });
    }
}

/// Tells metrics and log when it is dropped.
pub struct Exchange {
    caller: Arc<Caller>,
    started: Instant,
    protocol: RequestProtocol,
    version: Version,
    asked: Option<Asked>,
    pub metrics: Arc<RequestMetrics>,
    pub spare: Option<Spare>,
    endpoint: Option<Arc<Endpoint>>,
    status: Option<StatusCode>,
    grpc: Option<i32>,
    sent: u64,
    error: Option<String>,
}

/// What the access log says of a request's head.
struct Asked {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    /// Of a gateway.
    listener: Option<Arc<str>>,
}

impl Exchange {
    pub fn begin<B>(
        caller: &Arc<Caller>,
        request: &http::Request<B>,
        metrics: &Arc<RequestMetrics>,
    ) -> Self {
        let version = request.version();
        let protocol = match version {
            _ if is_grpc(request.headers()) => RequestProtocol::Grpc,
            Version::HTTP_2 => RequestProtocol::Http2,
            _ => RequestProtocol::Http1,
        };
        let asked = caller.context.logs_requests.then(|| Asked {
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: request.headers().get(HOST).cloned(),
            listener: None,
        });
        caller.context.overload.begin();
        if let Some(client) = &caller.client {
            client.begin();
        }
        Self {
            caller: caller.clone(),
            started: Instant::now(),
            protocol,
            version,
            asked,
            metrics: metrics.clone(),
            spare: None,
            endpoint: None,
            status: None,
            grpc: None,
            sent: 0,
            error: None,
        }
    }

    pub fn is_grpc(&self) -> bool {
        self.protocol == RequestProtocol::Grpc
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// The listener that the request came through, for the log.
    pub fn through(&mut self, listener: &Arc<str>) {
        if let Some(asked) = &mut self.asked {
            asked.listener = Some(listener.clone());
        }
    }

    /// Whether the client is outside the mesh, and comes by a gateway.
    pub fn is_of_gateway(&self) -> bool {
        self.caller.direction == Direction::Gateway
    }

    /// The endpoint that was tried last.
    pub fn tried(&mut self, endpoint: &Arc<Endpoint>) {
        self.endpoint = Some(endpoint.clone());
    }

    /// The request is sent once more.
    pub fn repeated(&self) {
        self.caller.context.metrics.retries.inc();
    }

    /// Resolves when the process ends.
    pub async fn draining(&self) {
        self.caller.closing.draining().await;
    }

    pub fn failed(&mut self, failure: &Failure) {
        self.error = Some(failure.to_string());
    }

    /// The head of the response, as the client gets it.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = Some(status);
        if self.is_grpc() {
            self.grpc = grpc_status(headers);
        }
        let failed = status.is_client_error() || status.is_server_error() || self.grpc > Some(0);
        if failed && self.error.is_none() {
            // Only a proxy's answer still has it: the one at the other end names the cause.
            let words = headers.get(ERROR).map(HeaderValue::as_bytes);
            self.error = words.map(|words| String::from_utf8_lossy(words).into_owned());
        }
    }

    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    pub fn trailers(&mut self, trailers: &HeaderMap) {
        if self.is_grpc() {
            self.grpc = grpc_status(trailers).or(self.grpc);
        }
    }

    pub fn broke(&mut self, error: &BodyError) {
        self.error = Some(format!("the answer broke off: {error}"));
    }

    /// The answer has been passed on; `whole`: to its end.
    pub fn finish(mut self, whole: bool) {
        if !whole && self.error.is_none() {
            self.error = Some("the client did not take the whole answer".to_owned());
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.caller.context.overload.end();
        let now = Instant::now();
        if let Some(client) = &self.caller.client {
            client.end(now);
        }
        let duration = now.saturating_duration_since(self.started);
        let status = self.status.unwrap_or_else(|| {
            self.error = Some("the client went away before the answer".to_owned());
            StatusCode::from_u16(CLIENT_GONE).unwrap_or(StatusCode::BAD_REQUEST)
        });
        self.metrics
            .record(self.protocol, status, self.grpc, duration);
        let access = &self.caller.context.access;
        if access.wants(status, self.grpc, self.error.is_some()) {
            self.log(status, duration);
        }
    }
}

impl Exchange {
    fn log(&self, status: StatusCode, duration: Duration) {
        let Some(asked) = &self.asked else { return };
        let authority = match &asked.host {
            Some(host) => host.to_str().ok(),
            None => asked.uri.authority().map(Authority::as_str),
        };
        let own = &*self.caller.context.identity;
        let expected = || self.endpoint.as_ref()?.identity.as_deref();
        self.caller.context.access.write(&Record {
            client: Some(self.caller.address),
            client_id: self.caller.identity.as_deref(),
            server_id: match self.caller.direction {
                Direction::Inbound => Some(own),
                Direction::Outbound | Direction::Gateway => expected(),
            },
            listener: asked.listener.as_deref(),
            method: asked.method.as_str(),
            authority,
            path: asked.uri.path(),
            endpoint: self.endpoint.as_ref().map(|endpoint| endpoint.address),
            grpc_status: self.grpc,
            error: self.error.as_deref(),
            duration,
            bytes_in: self.spare.as_ref().map_or(0, Spare::read),
            bytes_out: self.sent,
            ..Record::of(&self.metrics, self.protocol, status)
        });
    }
}

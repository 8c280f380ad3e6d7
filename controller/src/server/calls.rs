//! Counts the calls of each connection: they decide how long it may stay open, and which pool it is
//! in.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tower::{Layer, Service};
use weft_accept::{Activity, Bounds, Place, Pool, Port, Protected};

use crate::identity::{PeerIdentity, Proven};

/// How long a connection may have no call.
const IDLE: Duration = Duration::from_secs(30);
/// How long a connection without a certificate may take to begin its only call, and then to end it.
const ANONYMOUS: Duration = Duration::from_secs(10);
/// How long after the expiry of its client's certificate a connection is closed.
const AFTER_CERTIFICATE: Duration = Duration::from_secs(10);
/// How long the end of a response may take to be written.
const FLUSH: Duration = Duration::from_secs(1);

/// The pools of the port's connections; each connection is in one of them.
pub(super) struct Pools {
    /// Connections in their TLS handshake.
    pub(super) handshakes: Pool,
    /// Connections without a client certificate: any of them may be a stranger's.
    anonymous: Pool,
    /// Connections of proxies without a call.
    idle: Pool,
    /// Connections of proxies with calls. These are never closed for others: a new call is refused.
    established: Pool,
}

impl Pools {
    pub(super) fn new(port: &Port) -> Self {
        let pool = |total, per_source| {
            let bounds = Bounds {
                total,
                per_source,
                protected: per_source,
            };
            Pool::new(port, bounds, &Protected::default())
        };
        // Where nodes masquerade, all proxies of a node have one address.
        Self {
            handshakes: pool(1024, 64),
            anonymous: pool(512, 16),
            idle: pool(1024, 64),
            established: pool(16 * 1024, 1024),
        }
    }
}

/// The client of a connection, and its calls.
#[derive(Clone)]
pub(super) struct Peer(Arc<PeerState>);

struct PeerState {
    proven: Option<Proven>,
    address: SocketAddr,
    pools: Arc<Pools>,
    place: Place,
    calls: Activity,
}

impl Peer {
    pub(super) fn new(
        proven: Option<Proven>,
        address: SocketAddr,
        pools: Arc<Pools>,
        place: Place,
    ) -> Self {
        place.move_to(match proven {
            Some(_) => &pools.idle,
            None => &pools.anonymous,
        });
        Self(Arc::new(PeerState {
            proven,
            address,
            pools,
            place,
            calls: Activity::default(),
        }))
    }

    /// Resolves when the connection must be closed.
    pub(super) async fn over(self) {
        tokio::select! {
            () = self.0.place.lost() => {}
            () = self.unused() => self.0.place.silent(),
            () = self.served() => {}
            () = self.ended() => {}
        }
    }

    /// Resolves some time after the expiry of the certificate: the streams end with it.
    async fn ended(&self) {
        match &self.0.proven {
            Some(proven) => {
                proven.expired().await;
                sleep(AFTER_CERTIFICATE).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Resolves when the connection has been idle for too long, or its only call takes too long.
    async fn unused(&self) {
        if self.0.proven.is_some() {
            return self.0.calls.idle(IDLE).await;
        }
        let begun = self.0.calls.until(|calls| calls.begun > 0);
        if timeout(ANONYMOUS, begun).await.is_ok() {
            sleep(ANONYMOUS).await;
        }
    }

    /// Resolves when the only call of a client without a certificate has ended.
    async fn served(&self) {
        if self.0.proven.is_some() {
            return std::future::pending().await;
        }
        let calls = &self.0.calls;
        calls
            .until(|calls| calls.begun > 0 && calls.open == 0)
            .await;
        sleep(FLUSH).await;
    }

    #[allow(clippy::result_large_err, reason = "the size of tonic's Status")]
    fn begin(&self) -> Result<Call, Status> {
        let state = &self.0;
        let before = state.calls.now();
        if state.proven.is_none() && before.begun > 0 {
            let words =
                "a connection without a certificate may make one call: open another connection";
            return Err(Status::resource_exhausted(words));
        }
        if state.proven.is_some() && before.open == 0 {
            let established = &state.pools.established;
            if !established.has_room(state.address.ip()) {
                let words =
                    "this replica serves the maximum number of connections: connect to another";
                return Err(Status::resource_exhausted(words));
            }
            state.place.move_to(established);
        }
        state.calls.begin();
        Ok(Call(self.clone()))
    }
}

/// A call in progress.
struct Call(Peer);

impl Drop for Call {
    fn drop(&mut self) {
        let state = &self.0.0;
        let left = state.calls.end();
        if state.proven.is_some() && left.open == 0 {
            state.place.move_to(&state.pools.idle);
        }
    }
}

/// Counts each call, and adds its client to the request.
#[derive(Clone, Copy)]
pub(super) struct CountCalls;

impl<S> Layer<S> for CountCalls {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting(inner)
    }
}

#[derive(Clone)]
pub(super) struct Counting<S>(S);

impl<S, B> Service<http::Request<B>> for Counting<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let Some(peer) = request.extensions_mut().remove::<Peer>() else {
            let status = Status::internal("the connection's peer is unknown");
            return Box::pin(async move { Ok(status.into_http()) });
        };
        let call = match peer.begin() {
            Ok(call) => call,
            Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
        };
        let identity = PeerIdentity {
            proven: peer.0.proven.clone(),
            address: peer.0.address,
        };
        request.extensions_mut().insert(identity);
        request.extensions_mut().insert(TcpConnectInfo {
            local_addr: None,
            remote_addr: Some(peer.0.address),
        });
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| Body::new(Counted { body, _call: call })))
        })
    }
}

/// A response body, which keeps its call open until it is dropped.
struct Counted {
    body: Body,
    _call: Call,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::identity::tests::{DAY, identity, now};

    /// A client whose certificate expires after `left`.
    fn peer(left: Option<Duration>) -> (Peer, weft_accept::Metrics) {
        let metrics = weft_accept::Metrics::default();
        let pools = Arc::new(Pools::new(&Port::new("grpc", &metrics)));
        let address: SocketAddr = "10.0.0.1:4242".parse().unwrap();
        let place = pools.handshakes.enter(address.ip());
        let proven = left.map(|left| Proven {
            identity: identity("shop", "bob"),
            until: now() + left,
        });
        (Peer::new(proven, address, pools, place), metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_proxy_without_a_stream_is_closed() {
        let (peer, metrics) = peer(Some(DAY));
        let begun = Instant::now();
        let stream = peer.begin().unwrap();
        assert_eq!(peer.0.pools.established.len(), 1);
        assert!(timeout(100 * IDLE, peer.clone().over()).await.is_err());
        drop(stream);
        assert_eq!(peer.0.pools.established.len(), 0);
        assert_eq!(peer.0.pools.idle.len(), 1);
        peer.over().await;
        assert_eq!(begun.elapsed(), 101 * IDLE);
        assert_eq!(metrics.count("grpc", "timeout"), 1);
    }

    #[tokio::test]
    async fn connection_is_closed_after_its_certificate_expires() {
        let (peer, _) = peer(Some(Duration::from_millis(50)));
        let _stream = peer.begin().unwrap();
        tokio::time::pause();
        let begun = Instant::now();
        // Certificates expire by the system's clock, which does not pause.
        std::thread::sleep(Duration::from_millis(60));
        peer.over().await;
        assert!(begun.elapsed() >= AFTER_CERTIFICATE);
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_a_certificate_has_one_short_call() {
        let (silent, metrics) = peer(None);
        let begun = Instant::now();
        silent.over().await;
        assert_eq!(begun.elapsed(), ANONYMOUS);
        assert_eq!(metrics.count("grpc", "timeout"), 1);

        let (peer, _) = peer(None);
        let begun = Instant::now();
        let call = peer.begin().unwrap();
        let refused = peer.begin().map(drop).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(timeout(ANONYMOUS / 2, peer.clone().over()).await.is_err());
        drop(call);
        peer.over().await;
        assert_eq!(begun.elapsed(), ANONYMOUS / 2 + FLUSH);
    }
}

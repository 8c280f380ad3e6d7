//! The calls of a connection: how many there are decides how long it may stay, and who gives way to whom.

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

use super::{PeerIdentity, Proven, passed};

/// A connection without a call is closed after this.
const IDLE: Duration = Duration::from_secs(30);
/// One without a certificate has this long for its only call, and again until that has ended.
const ANONYMOUS: Duration = Duration::from_secs(10);
/// A connection is closed this long after its client's certificate has ended.
const AFTER_CERTIFICATE: Duration = Duration::from_secs(10);
/// Time for the end of the answer to get out.
const FLUSH: Duration = Duration::from_secs(1);

/// The places of the port's connections, each in one of these.
pub(super) struct Pools {
    /// TLS handshakes that have not ended.
    pub(super) handshakes: Pool,
    /// Connections whose client showed no certificate: all of them may be strangers'.
    anonymous: Pool,
    /// Connections of proxies without a call.
    idle: Pool,
    /// Connections of proxies that have calls. These never give way: a new one is refused.
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

/// Who is at the other end of a connection, and its calls.
#[derive(Clone)]
pub(super) struct Peer(Arc<Known>);

struct Known {
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
        Self(Arc::new(Known {
            proven,
            address,
            pools,
            place,
            calls: Activity::default(),
        }))
    }

    /// Resolves when the connection is to be closed.
    pub(super) async fn over(self) {
        tokio::select! {
            () = self.0.place.lost() => {}
            () = self.unused() => self.0.place.silent(),
            () = self.served() => {}
            () = self.ended() => {}
        }
    }

    /// Resolves a little after the certificate has ended: the streams end with it.
    async fn ended(&self) {
        match &self.0.proven {
            Some(proven) => {
                passed(proven.until).await;
                sleep(AFTER_CERTIFICATE).await;
            }
            None => std::future::pending().await,
        }
    }

    /// Resolves when the connection has had no call for too long, or one too long.
    async fn unused(&self) {
        if self.0.proven.is_some() {
            return self.0.calls.idle(IDLE).await;
        }
        let begun = self.0.calls.until(|calls| calls.begun > 0);
        if timeout(ANONYMOUS, begun).await.is_ok() {
            sleep(ANONYMOUS).await;
        }
    }

    /// Resolves when a client without a certificate has had its call.
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

    #[allow(clippy::result_large_err, reason = "tonic's errors are so large")]
    fn begin(&self) -> Result<Call, Status> {
        let known = &self.0;
        let before = known.calls.now();
        if known.proven.is_none() && before.begun > 0 {
            let words = "a connection without a certificate may make one call; open another one";
            return Err(Status::resource_exhausted(words));
        }
        if known.proven.is_some() && before.open == 0 {
            let established = &known.pools.established;
            if !established.has_room(known.address.ip()) {
                let words = "this replica has as many connections as it can serve";
                return Err(Status::resource_exhausted(words));
            }
            known.place.move_to(established);
        }
        known.calls.begin();
        Ok(Call(self.clone()))
    }
}

/// A call that has not ended.
struct Call(Peer);

impl Drop for Call {
    fn drop(&mut self) {
        let known = &self.0.0;
        let left = known.calls.end();
        if known.proven.is_some() && left.open == 0 {
            known.place.move_to(&known.pools.idle);
        }
    }
}

/// Has each call counted, and tells services who makes it.
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
            let status = Status::internal("the connection's peer is not known");
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

/// An answer, which is a call for as long as it lasts.
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

    /// Of a client with a certificate that lasts so long.
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
    async fn a_proxy_without_a_stream_is_closed_and_one_with_a_stream_is_not() {
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
    async fn a_connection_with_a_stream_ends_after_its_certificate() {
        let (peer, _) = peer(Some(Duration::from_millis(50)));
        let _stream = peer.begin().unwrap();
        tokio::time::pause();
        let begun = Instant::now();
        // The end of the certificate is by the clock of the system, which does not pause.
        std::thread::sleep(Duration::from_millis(60));
        peer.over().await;
        assert!(begun.elapsed() >= AFTER_CERTIFICATE);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_certificate_there_is_one_call_and_little_time() {
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

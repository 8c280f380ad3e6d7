//! The ports under attack, each in front of an application that answers every request with a few
//! bytes.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use weft_api::alpn;
use weft_ir::{Mode, Protocol, Serving, TlsListener, TlsServing};
use weft_proxy::options::Options;
use weft_testkit::pki::{Pki, ServerKey};

use super::support::gateway::{
    GatewayPod, all_to, at, free_port, host, listener, port, server_tls,
};
use super::support::*;

/// The application's response body.
pub const ANSWER: &[u8] = b"an answer of some bytes";

/// A port with the pods behind it.
pub struct Port {
    pub name: &'static str,
    pub address: SocketAddr,
    _pods: Vec<Pod>,
    gateway: Option<GatewayPod>,
}

/// A path whose requests are neither read nor answered.
pub const HELD: &str = "/held";
/// A path with a large response.
pub const LONG: &str = "/long";
static LONG_ANSWER: [u8; 4 << 20] = [b'x'; 4 << 20];

/// Reads each request to its end and responds.
async fn answer(
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
    let answer = match request.uri().path() {
        HELD => std::future::pending().await,
        LONG => &LONG_ANSWER[..],
        _ => ANSWER,
    };
    // hyper leaves it to HTTP/2 services to omit the body of a response to HEAD.
    let answer = if request.method() == http::Method::HEAD {
        b""
    } else {
        answer
    };
    request.into_body().collect().await?;
    Ok(http::Response::new(Full::new(Bytes::from_static(answer))))
}

/// An application of one HTTP version.
pub async fn application(version: Version) -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let stream = TokioIo::new(stream);
            // Errors of a connection are expected and ignored.
            match version {
                Version::Http1 => {
                    let server = hyper::server::conn::http1::Builder::new();
                    tokio::spawn(server.serve_connection(stream, service_fn(answer)));
                }
                Version::Http2 => {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(server.serve_connection(stream, service_fn(answer)));
                }
            }
        }
    });
    address
}

impl Port {
    /// The metrics of a gateway's port.
    pub fn metrics(&self) -> String {
        self.gateway.as_ref().unwrap().metrics()
    }
}

/// Starts a gateway with one port.
fn gateway(
    name: &'static str,
    app: SocketAddr,
    with: impl FnOnce(&mut Options),
    serving: impl FnOnce() -> Serving,
) -> Port {
    let pod = GatewayPod::start_with(with);
    let number = free_port();
    pod.tell(vec![
        endpoints("app", Protocol::Detect, &[unmeshed(app)]),
        port(number, serving()),
    ]);
    Port {
        name,
        address: at(number),
        _pods: Vec::new(),
        gateway: Some(pod),
    }
}

pub fn gateway_http(app: SocketAddr) -> Port {
    gateway_http_with(app, |_| {})
}

/// The same with changed options.
pub fn gateway_http_with(app: SocketAddr, with: impl FnOnce(&mut Options)) -> Port {
    gateway("gateway, HTTP", app, with, || {
        Serving::Http(vec![listener("http", "", vec![host("", all_to("app"))])])
    })
}

pub fn gateway_https(app: SocketAddr, pki: &Pki, key: ServerKey) -> Port {
    gateway(
        "gateway, HTTPS",
        app,
        |_| {},
        || {
            let pair = pki.server(&["localhost"], key);
            let tls = server_tls(vec![pair.unwrap()], None);
            let hosts = vec![host("", all_to("app"))];
            Serving::Tls(vec![TlsListener {
                name: "https".into(),
                hostname: None,
                serving: TlsServing::Http {
                    tls,
                    external_auth: Vec::new(),
                    hosts,
                },
            }])
        },
    )
}

/// A permissive pod, for unmeshed clients.
pub fn inbound_plain(app: SocketAddr) -> Port {
    let pod = Pod::start(&Pki::new().unwrap(), "reviews", Mode::Permissive);
    Port {
        name: "inbound, plain",
        address: pod.inbound(app),
        _pods: vec![pod],
        gateway: None,
    }
}

/// A strict pod behind a relay with a valid mesh certificate, which originates TLS for its clients:
/// a compromised pod.
pub async fn inbound_mesh(app: SocketAddr) -> Port {
    let pki = Pki::new().unwrap();
    let server = Pod::start(&pki, "reviews", Mode::Strict);
    let client = Pod::start(&pki, "frontend", Mode::Strict);
    let config = client
        .context
        .tls
        .client_config(&identity("reviews"), alpn::H2);
    let connector = TlsConnector::from(config.unwrap());
    let back = server.inbound(app);
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let connector = connector.clone();
            tokio::spawn(async move {
                let to = TcpStream::connect(back).await?;
                from.set_nodelay(true)?;
                to.set_nodelay(true)?;
                let name = ServerName::try_from("reviews").unwrap();
                let mut to = connector.connect(name, to).await?;
                copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    Port {
        name: "inbound, mesh",
        address,
        _pods: vec![server, client],
        gateway: None,
    }
}

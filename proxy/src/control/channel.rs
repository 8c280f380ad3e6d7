//! The connection to the controller: by its name or its addresses, TCP, TLS proven by its SPIFFE
//! id, HTTP/2 with keepalive so that a hung peer is noticed.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout of resolving the controller's name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// A Service has two addresses at most.
const MAX_ADDRESSES: usize = 4;
/// The interval of HTTP/2 pings, and their timeout: a hung connection is given up after 10 s at
/// most.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Where the controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    /// A file with addresses of the same controller, for pods whose DNS does not know the host's
    /// name. Read at each attempt: the controller keeps it up to date.
    file: Option<PathBuf>,
}

impl Address {
    /// Adds the file of addresses that are tried when the name does not work.
    pub fn with_file(self, file: PathBuf) -> Self {
        Self {
            file: Some(file),
            ..self
        }
    }

    /// Returns the addresses of the file; none if it is absent or holds none, as the name may work.
    async fn fallback_addresses(&self) -> Vec<SocketAddr> {
        let Some(file) = &self.file else {
            return Vec::new();
        };
        let text = tokio::fs::read_to_string(file).await.unwrap_or_default();
        text.split_ascii_whitespace()
            .filter_map(|ip| ip.parse().ok())
            .map(|ip| SocketAddr::new(ip, self.port))
            .take(MAX_ADDRESSES)
            .collect()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the controller's address {0} is not of the form https://<host>:<port>")]
pub struct AddressError(Uri);

impl TryFrom<&Uri> for Address {
    type Error = AddressError;

    fn try_from(uri: &Uri) -> Result<Self, AddressError> {
        let host = uri.host().filter(|host| !host.is_empty());
        match (uri.scheme_str(), host, uri.port_u16()) {
            (Some("https"), Some(host), Some(port)) => Ok(Self {
                host: host.trim_matches(['[', ']']).to_owned(),
                port,
                file: None,
            }),
            _ => Err(AddressError(uri.clone())),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why there is no connection, with all causes.
#[derive(Debug, thiserror::Error)]
#[error(
    "connecting to the controller at {address}: {causes}; check that weft-controller runs and that this pod may \
     reach it"
)]
pub struct ConnectError {
    address: Address,
    causes: String,
}

/// Whether the controller has refused the client's certificate. In TLS 1.3 a client learns that
/// only after its own handshake, by an alert.
#[derive(Clone, Debug, Default)]
pub struct CertificateRefused(Arc<AtomicBool>);

impl CertificateRefused {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// HTTP/2 keeps only the text of an error, so the alert is recorded where it is read.
    fn record(&self, error: &io::Error) {
        let tls = error.get_ref().and_then(|e| e.downcast_ref());
        if let Some(rustls::Error::AlertReceived(alert)) = tls
            && is_about_certificate(*alert)
        {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// A signature that does not match the root of the same name is a `DecryptError` (RFC 8446, section
/// 6.2).
fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
    )
}

/// Connects, with the handshakes of TLS and HTTP/2.
pub async fn connect(
    address: &Address,
    tls: Arc<ClientConfig>,
) -> Result<(Channel, CertificateRefused), ConnectError> {
    let (target, refused) = (address.clone(), CertificateRefused::default());
    let noted = refused.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let (opening, noted) = (connect_tls(target.clone(), tls.clone()), noted.clone());
        async move {
            let tls = opening.await?;
            Ok::<_, io::Error>(TokioIo::new(AlertObserver { tls, noted }))
        }
    });
    // The scheme means nothing here: the connector has TLS and timeouts of its own.
    let endpoint = Endpoint::from_static("http://weft-controller")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    match endpoint.connect_with_connector(connector).await {
        Ok(channel) => Ok((channel, refused)),
        Err(error) => Err(ConnectError {
            address: address.clone(),
            causes: causes(&error),
        }),
    }
}

type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

/// Connects by the name, else by the addresses of the file, whatever failed: a search path may lead
/// the name elsewhere.
async fn connect_tls(address: Address, tls: Arc<ClientConfig>) -> io::Result<TlsStream> {
    let by_name = async {
        let found: Vec<_> = within(RESOLVE_TIMEOUT, "the name is not resolved", async {
            tokio::net::lookup_host((address.host.as_str(), address.port)).await
        })
        .await?
        .collect();
        handshake(&found, &tls).await
    };
    let mut failed = match by_name.await {
        Ok(connected) => return Ok(connected),
        Err(failed) => failed,
    };
    for address in address.fallback_addresses().await {
        match handshake(&[address], &tls).await {
            Ok(connected) => return Ok(connected),
            Err(error) => {
                failed = io::Error::other(format!("{failed}; at {}: {error}", address.ip()))
            }
        }
    }
    Err(failed)
}

/// Connects to the first address that accepts, within 5 s.
async fn handshake(addresses: &[SocketAddr], tls: &Arc<ClientConfig>) -> io::Result<TlsStream> {
    within(CONNECT_TIMEOUT, "no answer", async {
        let tcp = TcpStream::connect(addresses).await?;
        tcp.set_nodelay(true)?;
        // The verifier checks the SPIFFE id; the name is not sent.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        TlsConnector::from(tls.clone()).connect(name, tcp).await
    })
    .await
}

async fn within<T>(
    bound: Duration,
    late: &str,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let ended = tokio::time::timeout(bound, work).await;
    ended.unwrap_or_else(|_| {
        let late = format!("{late} in {} s", bound.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, late))
    })
}

/// A connection that records when the peer refuses the certificate.
struct AlertObserver<S> {
    tls: S,
    noted: CertificateRefused,
}

impl<S: AsyncRead + Unpin> AsyncRead for AlertObserver<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.tls).poll_read(cx, buffer);
        if let Poll::Ready(Err(error)) = &read {
            self.noted.record(error);
        }
        read
    }
}

crate::net::io::delegate_writes!(AlertObserver<S>, tls);

/// Returns the text of an error with all its causes, each once.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Exponential backoff with jitter.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            next: first,
        }
    }

    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// Returns the next pause: between half and all of a duration that doubles up to the maximum.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controller_url_must_be_https_with_host_and_port() {
        for (text, shown) in [
            (
                "https://weft-controller.weft-system.svc:15012",
                "weft-controller.weft-system.svc:15012",
            ),
            ("https://[::1]:15012", "::1:15012"),
        ] {
            let address = Address::try_from(&text.parse::<Uri>().unwrap()).unwrap();
            assert_eq!(address.to_string(), shown);
        }
        for text in ["http://a:1", "https://a", "a:1", "/a"] {
            assert!(
                Address::try_from(&text.parse::<Uri>().unwrap()).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn backoff_grows_to_its_maximum_and_resets() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 4 * second);
        for max in [1, 2, 4, 4] {
            let pause = backoff.pause();
            assert!(
                pause >= second * max / 2 && pause <= second * max,
                "{pause:?}"
            );
        }
        backoff.reset();
        assert!(backoff.pause() <= second);
    }
}

//! The way to the controller: TCP, TLS proven by its SPIFFE id, HTTP/2 with keepalive so that a hung peer is noticed.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

const CONNECT: Duration = Duration::from_secs(5);
/// A ping this often; without an answer for as long again, the connection is given up: 10 s after a hang at most.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Where the controller is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
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

/// Why there is no connection, with its causes.
#[derive(Debug, thiserror::Error)]
#[error(
    "connecting to the controller at {address}: {causes}; check that weft-controller runs and that this pod may \
     reach it"
)]
pub struct ConnectError {
    address: Address,
    causes: String,
}

/// Connects and shakes hands.
pub async fn connect(address: &Address, tls: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
    let target = address.clone();
    let connector = tower::service_fn(move |_: Uri| open(target.clone(), tls.clone()));
    // The scheme says nothing here: the connector brings TLS along.
    let endpoint = Endpoint::from_static("http://weft-controller")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| ConnectError {
        address: address.clone(),
        causes: causes(&error),
    })
}

fn open(
    address: Address,
    tls: Arc<ClientConfig>,
) -> impl Future<Output = std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>>> {
    let connect = async move {
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
        tcp.set_nodelay(true)?;
        // The verifier goes by the SPIFFE id; the name is not sent.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let tls = TlsConnector::from(tls).connect(name, tcp).await?;
        Ok(TokioIo::new(tls))
    };
    async move {
        let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer in 5 s");
        tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| late())?
    }
}

/// An error with all its causes, each once.
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

/// Growing, jittered pauses between attempts.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    pub fn reset(&mut self) {
        self.next = self.first;
    }

    /// Between half and all of a pause that doubles up to the most.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.most);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_https_with_host_and_port() {
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
    fn pauses_grow_to_the_most_and_start_again() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 4 * second);
        for most in [1, 2, 4, 4] {
            let pause = backoff.pause();
            assert!(
                pause >= second * most / 2 && pause <= second * most,
                "{pause:?}"
            );
        }
        backoff.reset();
        assert!(backoff.pause() <= second);
    }
}

//! One key set from its issuer. What the server says goes into no log and no status.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, HOST};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_translate::objects::KeySource;

use super::addresses::is_allowed;

/// For the whole attempt.
const TIMEOUT: Duration = Duration::from_secs(5);
/// RFC 7517, 8.5: the first is that of key sets. Most issuers send the second; the Kubernetes API
/// server sends the first alone, and refuses requests for another one.
const MEDIA_TYPES: &str = "application/jwk-set+json, application/json";
/// Bytes of a key set.
const MAX_BODY: usize = 64 << 10;
/// Addresses of a host that are tried.
const MAX_ADDRESSES: usize = 3;

/// Why a set was not fetched. Each is a class: nothing of the answer is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    #[error("its address is not a valid https URI")]
    Uri,
    #[error("its host cannot be resolved")]
    Resolve,
    #[error("its host has no address that keys may be fetched from")]
    Address,
    #[error("its CA certificates cannot be used")]
    Ca,
    #[error("the server cannot be connected to")]
    Connect,
    #[error("the certificate of the server is not trusted, or TLS failed")]
    Tls,
    #[error("the server did not answer with 200")]
    Answer,
    #[error("the answer is over 64 KiB, or broke off")]
    Body,
    #[error("the answer is not a set with usable keys")]
    Keys,
    #[error("the server did not answer within 5 seconds")]
    Timeout,
    #[error("the controller fetches no more key sets")]
    TooMany,
}

impl FetchError {
    /// Returns the class as a label of metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Uri => "invalid_uri",
            Self::Resolve => "name_resolution",
            Self::Address => "address_denied",
            Self::Ca => "invalid_ca",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Answer => "status",
            Self::Body => "body",
            Self::Keys => "no_usable_keys",
            Self::Timeout => "timeout",
            Self::TooMany => "limit",
        }
    }
}

/// Returns the set as text. `denied`: networks that nothing is sent to.
pub(super) async fn fetch(source: &KeySource, denied: &[IpNet]) -> Result<String, FetchError> {
    let attempt = attempt(source, |address| is_allowed(address.ip(), denied));
    let answer = timeout(TIMEOUT, attempt)
        .await
        .unwrap_or(Err(FetchError::Timeout))?;
    // The last good keys are not given up for a page that says something else.
    match weft_translate::is_key_set(&answer) {
        true => Ok(answer),
        false => Err(FetchError::Keys),
    }
}

/// No redirect is followed.
async fn attempt(
    source: &KeySource,
    allowed: impl Fn(&SocketAddr) -> bool,
) -> Result<String, FetchError> {
    let uri: Uri = source.uri.parse().map_err(|_| FetchError::Uri)?;
    let authority = uri.authority().filter(|of| !of.as_str().contains('@'));
    let authority = authority.ok_or(FetchError::Uri)?;
    if uri.scheme_str() != Some("https") {
        return Err(FetchError::Uri);
    }
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|_| FetchError::Uri)?;
    let tls = client_config(source.ca.as_deref())?;
    let port = authority.port_u16().unwrap_or(443);
    let stream = connect(host, port, allowed).await?;
    let connector = TlsConnector::from(Arc::new(tls));
    let stream = connector
        .connect(name, stream)
        .await
        .map_err(|_| FetchError::Tls)?;
    let path = uri.path_and_query().map_or("/", |of| of.as_str());
    let request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(ACCEPT, MEDIA_TYPES)
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|_| FetchError::Uri)?;
    let io = TokioIo::new(stream);
    let handshake = hyper::client::conn::http1::handshake(io).await;
    let (mut sender, connection) = handshake.map_err(|_| FetchError::Connect)?;
    let answer = async {
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|_| FetchError::Answer)?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Answer);
        }
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        let bytes = body.map_err(|_| FetchError::Body)?.to_bytes();
        String::from_utf8(bytes.to_vec()).map_err(|_| FetchError::Body)
    };
    tokio::pin!(answer);
    // The connection ends with the answer, on which it is waited for first.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

/// Connects to an address that was checked: the host is not resolved again.
async fn connect(
    host: &str,
    port: u16,
    allowed: impl Fn(&SocketAddr) -> bool,
) -> Result<TcpStream, FetchError> {
    let found = tokio::net::lookup_host((host, port)).await;
    let all: Vec<SocketAddr> = found.map_err(|_| FetchError::Resolve)?.collect();
    if all.is_empty() {
        return Err(FetchError::Resolve);
    }
    let allowed = all.into_iter().filter(allowed).take(MAX_ADDRESSES);
    let mut error = FetchError::Address;
    for address in allowed {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(_) => error = FetchError::Connect,
        }
    }
    Err(error)
}

fn client_config(ca: Option<&str>) -> Result<ClientConfig, FetchError> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|_| FetchError::Ca)?;
                roots.add(certificate).map_err(|_| FetchError::Ca)?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.map_err(|_| FetchError::Tls)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;

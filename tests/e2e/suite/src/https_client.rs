//! HTTPS clients at a fixed rate, each with its own TCP connection and TLS handshake; records the
//! certificate and response that each got.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::TlsConnector;

use crate::tls_client::accepting_any_certificate;

/// The time limit for one attempt.
const LIMIT: Duration = Duration::from_secs(15);

/// A self-signed certificate and its key, PEM.
pub struct SelfSigned {
    pub certificate: String,
    pub key: String,
}

impl SelfSigned {
    /// Creates a certificate for these DNS names with an ECDSA key.
    pub fn new(names: &[&str]) -> anyhow::Result<Self> {
        Self::of(KeyPair::generate()?, names)
    }

    /// Creates a certificate for these DNS names with an RSA key.
    pub fn rsa(names: &[&str]) -> anyhow::Result<Self> {
        Self::of(KeyPair::generate_for(&PKCS_RSA_SHA256)?, names)
    }

    fn of(key: KeyPair, names: &[&str]) -> anyhow::Result<Self> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names)?.self_signed(&key)?;
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    pub fn der(&self) -> anyhow::Result<CertificateDer<'static>> {
        Ok(CertificateDer::from_pem_slice(self.certificate.as_bytes())?)
    }
}

/// An HTTPS client: what it requests, and which certificates it trusts.
#[derive(Clone)]
pub struct HttpsClient {
    pub address: String,
    pub host: String,
    pub path: String,
    tls: Arc<ClientConfig>,
}

/// One connection with one request.
#[derive(Debug)]
pub struct Attempt {
    /// The start of the connection.
    pub started: Instant,
    pub result: anyhow::Result<HttpsResponse>,
}

/// The server's certificate and response.
#[derive(Debug)]
pub struct HttpsResponse {
    /// The start of the TLS handshake.
    pub handshake_start: Instant,
    pub certificate: CertificateDer<'static>,
    pub status: u16,
    pub body: Value,
}

impl HttpsClient {
    /// Trusts only these certificates. Sessions are not resumed: every attempt is a full handshake.
    pub fn new(
        address: &str,
        host: &str,
        path: &str,
        trusted: &[&SelfSigned],
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in trusted {
            roots.add(certificate.der()?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self::with(address, host, path, tls))
    }

    /// Accepts every certificate, for tests that are not about certificates.
    pub fn accepting_any_certificate(
        address: &str,
        host: &str,
        path: &str,
    ) -> anyhow::Result<Self> {
        let tls = accepting_any_certificate()?.with_no_client_auth();
        Ok(Self::with(address, host, path, tls))
    }

    fn with(address: &str, host: &str, path: &str, mut tls: ClientConfig) -> Self {
        tls.resumption = rustls::client::Resumption::disabled();
        Self {
            address: address.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            tls: Arc::new(tls),
        }
    }

    pub async fn request(&self) -> anyhow::Result<HttpsResponse> {
        tokio::time::timeout(LIMIT, self.exchange())
            .await
            .context("no response in time")?
    }

    async fn exchange(&self) -> anyhow::Result<HttpsResponse> {
        let stream = TcpStream::connect((&*self.address, 443))
            .await
            .context("connecting")?;
        let name = ServerName::try_from(self.host.clone())?;
        let handshake_start = Instant::now();
        let mut stream = TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await
            .context("in the TLS handshake")?;
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = certificates
            .and_then(<[_]>::first)
            .context("the server presented no certificate")?
            .clone()
            .into_owned();
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.path, self.host
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .context("reading the response")?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .context("the response is incomplete")?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        Ok(HttpsResponse {
            handshake_start,
            certificate,
            status: status.parse().context("the response has no status")?,
            body: serde_json::from_str(body).unwrap_or(Value::Null),
        })
    }

    /// Makes `rate` attempts a second, each started when due regardless of the earlier ones, until
    /// `changes` are done.
    pub async fn requests_during<T>(
        &self,
        rate: u32,
        changes: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<(T, Vec<Attempt>)> {
        let mut changes = std::pin::pin!(changes);
        let mut due = tokio::time::interval(Duration::from_secs(1) / rate);
        due.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let made = Arc::new(Mutex::new(Vec::new()));
        let mut attempts = JoinSet::new();
        let changed = loop {
            tokio::select! {
                changed = &mut changes => break changed,
                _ = due.tick() => {
                    let (client, made) = (self.clone(), made.clone());
                    attempts.spawn(async move {
                        let started = Instant::now();
                        let result = client.request().await;
                        let attempt = Attempt { started, result };
                        made.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
                    });
                    while attempts.try_join_next().is_some() {}
                }
            }
        };
        attempts.join_all().await;
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        let mut attempts = std::mem::take(&mut *made);
        attempts.sort_by_key(|attempt| attempt.started);
        let first: Vec<String> = failures(&attempts).take(5).collect();
        let changed = changed.with_context(|| format!("failed attempts: {first:?}"))?;
        Ok((changed, attempts))
    }
}

/// Returns the cause of each attempt that did not get a response of 200.
pub fn failures(attempts: &[Attempt]) -> impl Iterator<Item = String> {
    attempts.iter().filter_map(|attempt| match &attempt.result {
        Ok(served) if served.status == 200 => None,
        Ok(served) => Some(format!("{} {}", served.status, served.body)),
        Err(error) => Some(format!("{error:#}")),
    })
}

//! A TLS client outside the mesh: for the webhook, and for pods that must reject its certificate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::eventually;

/// A certificate chain and its key, DER.
pub type ClientCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Returns the configuration of a client that accepts every server certificate.
pub(crate) fn accepting_any_certificate()
-> anyhow::Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider))))
}

/// Connects, and retries until the address is reachable: a node learns with a delay where a
/// Service's pods are.
pub async fn reach(address: &str) -> anyhow::Result<TcpStream> {
    eventually(&format!("{address} to be reachable"), async || {
        open(address).await
    })
    .await
}

/// Connects, or fails after 2 s.
pub(crate) async fn open(address: &str) -> anyhow::Result<TcpStream> {
    let stream = tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(address)).await;
    let stream = stream.with_context(|| format!("connecting to {address} timed out"))?;
    stream.with_context(|| format!("connecting to {address}"))
}

/// Connects with TLS and accepts every server certificate.
pub async fn connect(
    address: &str,
    alpn: Option<&str>,
    certificate: Option<ClientCertificate>,
) -> anyhow::Result<TlsStream<TcpStream>> {
    handshake(reach(address).await?, alpn, certificate).await
}

/// Starts TLS on a connection and accepts every server certificate.
pub async fn handshake(
    stream: TcpStream,
    alpn: Option<&str>,
    certificate: Option<ClientCertificate>,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let builder = accepting_any_certificate()?;
    let mut config = match certificate {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn
        .into_iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("client.invalid")?;
    Ok(connector.connect(name, stream).await?)
}

/// Sends the HTTP/2 preface and returns what the server sends. With TLS 1.3 a rejected client
/// certificate shows only here.
pub async fn exchange_http2_prefaces(
    stream: &mut TlsStream<TcpStream>,
) -> std::io::Result<Vec<u8>> {
    // The preface and an empty SETTINGS frame.
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        .await?;
    stream.flush().await?;
    let mut received = vec![0; 256];
    let length = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut received)).await??;
    received.truncate(length);
    Ok(received)
}

/// Sends the bytes and reads until the server closes; fails after 20 s without data.
pub async fn exchange(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> anyhow::Result<String> {
    // A server that rejects early may close while bytes are still being sent; only its response
    // counts.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let limit = Duration::from_secs(20);
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(limit, stream.read(&mut buffer)).await;
        match read.context("the server neither responded nor closed")? {
            Ok(0) | Err(_) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Accepts every server certificate: the tests are about how servers treat clients.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

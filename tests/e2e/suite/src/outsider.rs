//! TLS spoken from outside the mesh, by hand: to the webhook, and to pods by somebody who pretends to belong.

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

/// A client that takes every server for what it says it is.
pub(crate) fn believing_anybody() -> anyhow::Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider))))
}

/// Connects once the address can be reached: a node learns in its own time where a Service's pods are.
pub async fn reach(address: &str) -> anyhow::Result<TcpStream> {
    eventually(&format!("{address} to be reached"), async || {
        open(address).await
    })
    .await
}

/// Connects, or fails within seconds.
pub(crate) async fn open(address: &str) -> anyhow::Result<TcpStream> {
    let stream = tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(address)).await;
    let stream = stream.with_context(|| format!("connecting to {address} took too long"))?;
    stream.with_context(|| format!("connecting to {address}"))
}

/// Connects with TLS, whoever the server says it is.
pub async fn connect(
    address: &str,
    alpn: Option<&str>,
    certificate: Option<ClientCertificate>,
) -> anyhow::Result<TlsStream<TcpStream>> {
    handshake(reach(address).await?, alpn, certificate).await
}

/// Speaks TLS, whoever the server says it is.
pub async fn handshake(
    stream: TcpStream,
    alpn: Option<&str>,
    certificate: Option<ClientCertificate>,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let builder = believing_anybody()?;
    let mut config = match certificate {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn
        .into_iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("outsider.invalid")?;
    Ok(connector.connect(name, stream).await?)
}

/// What an HTTP/2 client hears after its preface: with TLS 1.3 a refused client certificate shows only here.
pub async fn greet_h2(stream: &mut TlsStream<TcpStream>) -> std::io::Result<Vec<u8>> {
    // The preface and an empty SETTINGS frame.
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        .await?;
    stream.flush().await?;
    let mut heard = vec![0; 256];
    let length = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut heard)).await??;
    heard.truncate(length);
    Ok(heard)
}

/// Sends the bytes and reads until the server closes or 20 s have passed.
pub async fn exchange(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> anyhow::Result<String> {
    // A server that refuses early may close while bytes are still being sent; its answer is what counts.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let limit = Duration::from_secs(20);
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(limit, stream.read(&mut buffer)).await;
        match read.context("the server neither answered nor closed")? {
            Ok(0) | Err(_) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Trusts every server: the tests ask what servers make of clients.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
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

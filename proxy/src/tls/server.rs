//! The configuration of the TLS server for other proxies.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::{Error, version};
use weft_ir::TrustDomain;

use super::certificate::Certificate;
use super::credentials::CurrentCredentials;
use super::verify::MeshClients;

/// Requires a client certificate of `trust_domain`.
pub(super) fn server_config(
    provider: &Arc<CryptoProvider>,
    current: &CurrentCredentials,
    trust_domain: TrustDomain,
) -> Result<ServerConfig, Error> {
    let verifier = MeshClients {
        current: current.clone(),
        trust_domain,
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(Certificate(current.clone())));
    config.alpn_protocols = weft_api::alpn::ALL.map(<[u8]>::to_vec).to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

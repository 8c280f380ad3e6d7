//! Configurations of TLS clients: for other proxies, and for the controller.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::{Error, version};
use weft_ir::Identity;

use super::certificate::Certificate;
use super::credentials::CurrentCredentials;
use super::verify::{ExpectedServer, RootsFrom};

/// The maximum number of cached configurations. Beyond it the cache is emptied: a configuration is
/// cheap, and a pod has few peers with different identities.
const MAX_CLIENT_CONFIGS: usize = 1_024;

/// Configurations by the expected identity and the application protocol.
#[derive(Default)]
pub(super) struct ClientConfigs(HashMap<(Identity, &'static [u8]), Arc<ClientConfig>>);

impl ClientConfigs {
    /// Returns the cached configuration, or the one that `make` returns.
    pub(super) fn get(
        &mut self,
        expected: &Identity,
        alpn: &'static [u8],
        make: impl FnOnce() -> Result<ClientConfig, Error>,
    ) -> Result<Arc<ClientConfig>, Error> {
        let key = (expected.clone(), alpn);
        if let Some(config) = self.0.get(&key) {
            return Ok(config.clone());
        }
        let config = Arc::new(make()?);
        if self.0.len() >= MAX_CLIENT_CONFIGS {
            self.0.clear();
        }
        self.0.insert(key, config.clone());
        Ok(config)
    }
}

/// Makes a configuration that accepts only a server with the identity `expected`, and presents the
/// certificate of `own`, if any.
pub(super) fn client_config(
    provider: &Arc<CryptoProvider>,
    expected: &Identity,
    alpn: &[u8],
    roots: RootsFrom,
    own: Option<&CurrentCredentials>,
) -> Result<ClientConfig, Error> {
    let verifier = ExpectedServer {
        roots,
        expected: expected.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(current) => builder.with_client_cert_resolver(Arc::new(Certificate(current.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

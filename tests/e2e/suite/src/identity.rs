//! Calls the controller's certificate authority and configuration service like a proxy, but from an
//! address that no pod has.

use anyhow::Context;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::{Value, json};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use weft_api::proto::certificate_authority_client::CertificateAuthorityClient;
use weft_api::proto::{SignRequest, SignResponse};

use crate::host::in_url;
use crate::{TestNamespace, control_plane, eventually};

/// The audience of the tokens that the controller accepts.
pub const AUDIENCE: &str = "weft.dev/ca";

/// A key and the CSR for it.
pub struct Request {
    pub key: KeyPair,
    pub csr: Vec<u8>,
}

/// Returns the SPIFFE ID of a service account.
pub fn spiffe(namespace: &str, account: &str) -> String {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")
}

/// Returns a new key with a CSR for this URI.
pub fn request(uri: &str) -> anyhow::Result<Request> {
    let key = KeyPair::generate()?;
    let csr = parameters(uri)?.serialize_request(&key)?.der().to_vec();
    Ok(Request { key, csr })
}

/// Returns parameters of a certificate with this URI as its only name.
pub fn parameters(uri: &str) -> anyhow::Result<CertificateParams> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    Ok(parameters)
}

/// Requests a token of a service account for an audience, bound to a pod like projected tokens.
pub async fn token(
    ns: &TestNamespace,
    account: &str,
    audience: &str,
    pod: &str,
) -> anyhow::Result<String> {
    let uid = ns.get("v1", "Pod", pod).await?["metadata"]["uid"]
        .as_str()
        .map(str::to_owned);
    let spec = json!({
        "audiences": [audience], "expirationSeconds": 600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid},
    });
    requested_token(ns, account, spec).await
}

/// Requests a token of a service account by the spec of a TokenRequest.
pub(crate) async fn requested_token(
    ns: &TestNamespace,
    account: &str,
    spec: Value,
) -> anyhow::Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(ns.client.clone(), &ns.namespace);
    let wanted: TokenRequest = serde_json::from_value(json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec,
    }))?;
    let made = accounts
        .create_token_request(account, &PostParams::default(), &wanted)
        .await?;
    let made = serde_json::to_value(made)?;
    made["status"]["token"]
        .as_str()
        .map(str::to_owned)
        .context("the response has no token")
}

/// Returns the PEM roots of the mesh from the ConfigMap that the controller maintains in the
/// namespace.
pub async fn roots(ns: &TestNamespace) -> anyhow::Result<String> {
    let map = ns.get("v1", "ConfigMap", "weft-roots").await?;
    map["data"]["ca.crt"]
        .as_str()
        .map(str::to_owned)
        .context("weft-roots has no ca.crt")
}

/// Connects to the controller's Service without a client certificate.
pub async fn controller(ns: &TestNamespace) -> anyhow::Result<Channel> {
    let address = control_plane::system(&ns.client)
        .cluster_ip("weft-controller")
        .await?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(roots(ns).await?))
        .domain_name("weft-controller.weft-system.svc");
    let host = in_url(&address);
    let endpoint = Endpoint::from_shared(format!("https://{host}:15012"))?.tls_config(tls)?;
    let endpoint = endpoint
        .connect_timeout(std::time::Duration::from_secs(5))
        .timeout(std::time::Duration::from_secs(20));
    eventually(
        &format!("a connection to the controller at {host}:15012"),
        async || Ok(endpoint.connect().await?),
    )
    .await
}

/// Sends a CSR to the controller.
pub async fn sign(
    ns: &TestNamespace,
    csr: &[u8],
    token: &str,
) -> anyhow::Result<Result<SignResponse, tonic::Status>> {
    let mut authority = CertificateAuthorityClient::new(controller(ns).await?);
    let request = SignRequest {
        csr: csr.to_vec().into(),
        token: token.to_owned(),
    };
    Ok(authority
        .sign(request)
        .await
        .map(tonic::Response::into_inner))
}

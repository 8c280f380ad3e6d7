//! A gateway's proxy on loopback, configured through the protocol, and TLS clients for it.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_api::{encode, proto};
use weft_ir::{
    ClientValidation, ForwardedTrust, Gateway, GatewayId, GatewayPort, HttpListener, KeyPair, Rule,
    ServerTls, ServiceRules, Serving, VirtualHost,
};
use weft_proxy::drain::Shutdown;
use weft_proxy::telemetry::access::AccessLog;
use weft_testkit::pki::Pki;

use super::*;

pub struct GatewayPod {
    pub store: Store,
    pub metrics: Arc<Metrics>,
    pub shutdown: Shutdown,
    _requests: UnboundedReceiver<Asked>,
}

impl GatewayPod {
    pub fn start() -> Self {
        Self::start_logged(AccessLog::off())
    }

    pub fn start_logged(access: AccessLog) -> Self {
        Self::start_all(access, |_| {})
    }

    pub fn start_with(with: impl FnOnce(&mut Options)) -> Self {
        Self::start_all(AccessLog::off(), with)
    }

    /// A gateway of the mesh whose certificates `pki` signs.
    pub fn start_in(pki: &Pki) -> Self {
        Self::start_signed(pki, AccessLog::off(), |_| {})
    }

    fn start_all(access: AccessLog, with: impl FnOnce(&mut Options)) -> Self {
        Self::start_signed(&Pki::new().unwrap(), access, with)
    }

    fn start_signed(pki: &Pki, access: AccessLog, with: impl FnOnce(&mut Options)) -> Self {
        let (ports, opened) = weft_proxy::routing::gateway_port::BoundPorts::channel();
        let (proxy, _, requests) = data_plane_with(pki, "gateway", access, Some(ports), with);
        let shutdown = Shutdown::new();
        let pod = Self {
            store: proxy.store.clone(),
            metrics: proxy.metrics.clone(),
            shutdown: shutdown.clone(),
            _requests: requests,
        };
        tokio::spawn(async move {
            weft_proxy::listen::gateway::run(&proxy, shutdown, opened)
                .await
                .unwrap();
        });
        pod.tell(vec![encode::gateway(&gateway())]);
        pod
    }

    /// Applies an update; returns the refused resources.
    pub fn try_tell(
        &self,
        resources: Vec<proto::Resource>,
        removed: &[&str],
    ) -> Vec<proto::Refused> {
        self.store.apply(proto::Update {
            nonce: 1,
            resources,
            removed: removed.iter().map(|key| (*key).to_owned()).collect(),
            withdrawn: None,
        })
    }

    pub fn tell(&self, resources: Vec<proto::Resource>) {
        let refused = self.try_tell(resources, &[]);
        assert!(refused.is_empty(), "{refused:?}");
    }

    pub fn metrics(&self) -> String {
        self.metrics.encode().unwrap()
    }
}

pub fn gateway() -> Gateway {
    Gateway {
        id: GatewayId::new("shop", "gw"),
        client_certificate: None,
        forwarded: ForwardedTrust::default(),
        proxy_protocol: false,
        normalize_paths: true,
    }
}

/// Returns a port that is free at the moment.
pub fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("[::]:0").unwrap();
    socket.local_addr().unwrap().port()
}

pub fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub fn port(number: u16, serving: Serving) -> proto::Resource {
    composed_port(number, serving, Vec::new())
}

/// A port with Services whose own rules apply.
pub fn composed_port(
    number: u16,
    serving: Serving,
    services: Vec<ServiceRules>,
) -> proto::Resource {
    encode::gateway_port(&GatewayPort {
        port: number,
        serving,
        services: services.into_iter().map(Arc::new).collect(),
    })
}

pub fn host(name: &str, rules: Vec<Rule>) -> VirtualHost {
    VirtualHost {
        host: (!name.is_empty()).then(|| name.parse().unwrap()),
        rules: rules.into_iter().map(Arc::new).collect(),
    }
}

/// `hostname`: empty for any.
pub fn listener(name: &str, hostname: &str, hosts: Vec<VirtualHost>) -> HttpListener {
    HttpListener {
        name: name.into(),
        hostname: (!hostname.is_empty()).then(|| hostname.parse().unwrap()),
        external_auth: Vec::new(),
        hosts,
    }
}

/// One rule that sends everything to one backend.
pub fn all_to(name: &str) -> Vec<Rule> {
    vec![rule(0, vec![to(name, 1)])]
}

pub fn server_tls(certificates: Vec<KeyPair>, clients: Option<ClientValidation>) -> ServerTls {
    ServerTls {
        certificates,
        clients,
    }
}

/// The TLS configuration of a client.
#[derive(Clone)]
pub struct TlsClient {
    pub roots: RootCertStore,
    pub versions: &'static [&'static SupportedProtocolVersion],
    pub alpn: Vec<Vec<u8>>,
    pub own: Option<(CertificateDer<'static>, Arc<[u8]>)>,
    pub provider: rustls::crypto::CryptoProvider,
}

impl TlsClient {
    pub fn new(pki: &Pki) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(pki.root()).unwrap();
        Self {
            roots,
            versions: rustls::ALL_VERSIONS,
            alpn: Vec::new(),
            own: None,
            provider: rustls::crypto::aws_lc_rs::default_provider(),
        }
    }

    pub fn alpn(mut self, name: &str) -> Self {
        self.alpn = vec![name.as_bytes().to_vec()];
        self
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(self.provider.clone());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.own {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.to_vec()).unwrap();
                builder
                    .with_client_auth_cert(vec![certificate.clone()], key)
                    .unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.clone();
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    pub async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(self.config()).connect(name, tcp).await
    }
}

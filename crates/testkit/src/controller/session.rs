//! The stream of one proxy: its subscriptions, the resources it has, and the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};
use weft_api::proto;
use weft_api::proto::destination::Target;
use weft_api::proto::proxy_message::Kind;
use weft_api::proto::resource::Body;
use weft_api::proto::service::Routing;
use weft_api::proto::service_port::Name;
use weft_api::proto::weighted_backend::Backend;

use super::{Event, Shared};

pub(super) struct Session {
    shared: Arc<Shared>,
    updates: mpsc::UnboundedSender<Result<proto::Update, Status>>,
    watched: BTreeSet<String>,
    /// Versions of the resources that the proxy has, by key.
    sent: BTreeMap<String, u64>,
    /// Keys of the resources that this session has updated.
    kept: BTreeSet<String>,
    nonce: u64,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        updates: mpsc::UnboundedSender<Result<proto::Update, Status>>,
        held: &[proto::Held],
    ) -> Self {
        Self {
            shared,
            updates,
            watched: BTreeSet::new(),
            // Like the controller, which sends the roots on each stream.
            sent: held
                .iter()
                .filter(|held| held.key != "roots")
                .map(|held| (held.key.clone(), held.version))
                .collect(),
            kept: BTreeSet::new(),
            nonce: 0,
        }
    }

    pub(super) async fn run(mut self, mut messages: Streaming<proto::ProxyMessage>) {
        let mut changed = self.shared.changed.subscribe();
        let mut stream_ends = self.shared.stream_ends.subscribe();
        loop {
            if self.send_difference().is_err() {
                return;
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = self.updates.closed() => return,
                _ = stream_ends.changed() => {
                    let _ = self.updates.send(Err(Status::unavailable("connect again")));
                    return;
                }
                message = messages.next() => match message {
                    Some(Ok(message)) => self.take(message),
                    Some(Err(_)) | None => return,
                },
            }
        }
    }

    fn take(&mut self, message: proto::ProxyMessage) {
        match message.kind {
            Some(Kind::Watch(watch)) => {
                self.watched.insert(watch.address.clone());
                self.shared.record(Event::Watch(watch.address));
            }
            Some(Kind::Unwatch(unwatch)) => {
                self.watched.remove(&unwatch.address);
                self.shared.record(Event::Unwatch(unwatch.address));
            }
            Some(Kind::Ack(ack)) => self.shared.record(Event::Ack(ack)),
            Some(Kind::Withdraw(_)) => {
                self.shared.record(Event::Withdraw);
                let withdrawn = self.shared.state().withdrawn;
                if withdrawn.is_some() {
                    // A proxy that has disconnected needs no response.
                    let _ = self.updates.send(Ok(proto::Update {
                        withdrawn,
                        ..proto::Update::default()
                    }));
                }
            }
            Some(Kind::Certificate(certificate)) => {
                let root = CertificateDer::from(certificate.root.to_vec());
                self.shared.record(Event::Certificate(root));
            }
            Some(Kind::Hello(_)) | None => {}
        }
    }

    fn send_difference(&mut self) -> Result<(), ()> {
        let wanted = self.wanted();
        let resources: Vec<_> = wanted
            .values()
            .filter(|resource| self.sent.get(&resource.key) != Some(&resource.version))
            .cloned()
            .collect();
        let gone = |key: &&String| !wanted.contains_key(*key);
        let removed: Vec<_> = self.kept.iter().filter(gone).cloned().collect();
        self.kept = wanted.into_keys().collect();
        if resources.is_empty() && removed.is_empty() {
            return Ok(());
        }
        for resource in &resources {
            self.sent.insert(resource.key.clone(), resource.version);
        }
        for key in &removed {
            self.sent.remove(key);
        }
        self.nonce += 1;
        let update = proto::Update {
            nonce: self.nonce,
            resources,
            removed,
            withdrawn: None,
        };
        self.updates.send(Ok(update)).map_err(|_| ())
    }

    /// Endpoints should precede the destinations that refer to them. Their keys sort the other way,
    /// which does not matter because an update is one change.
    fn wanted(&self) -> BTreeMap<String, proto::Resource> {
        let state = self.shared.state();
        let mut wanted = BTreeMap::new();
        let mut add = |resource: &proto::Resource| {
            wanted.insert(resource.key.clone(), resource.clone());
        };
        for (key, resource) in &state.resources {
            if ["workload", "roots", "gateway"].contains(&key.as_str()) || key.starts_with("port/")
            {
                add(resource);
            }
            for key in referenced_by_port(resource) {
                state.resources.get(&key).iter().for_each(|set| add(set));
            }
        }
        for address in &self.watched {
            let key = format!("destination/{address}");
            let Some(destination) = state.resources.get(&key) else {
                add(&unknown(key));
                continue;
            };
            add(destination);
            for key in referenced(destination) {
                state.resources.get(&key).iter().for_each(|set| add(set));
            }
        }
        wanted
    }
}

/// Returns the resource for an address that is neither a Service nor a pod.
fn unknown(key: String) -> proto::Resource {
    let target = Some(Target::Unknown(proto::Unknown {}));
    proto::Resource {
        key,
        version: 1,
        body: Some(Body::Destination(proto::Destination { target })),
    }
}

/// Returns the keys of the endpoints of a destination's backends.
fn referenced(destination: &proto::Resource) -> BTreeSet<String> {
    let Some(Body::Destination(destination)) = &destination.body else {
        return BTreeSet::new();
    };
    let Some(Target::Service(service)) = &destination.target else {
        return BTreeSet::new();
    };
    let backends = match &service.routing {
        Some(Routing::Direct(direct)) => direct.backends.iter().collect(),
        Some(Routing::Http(routing) | Routing::Grpc(routing)) => {
            routing.rules.iter().flat_map(|r| &r.backends).collect()
        }
        Some(Routing::Tls(routing)) => of_tls(&routing.rules),
        Some(Routing::Tcp(rule)) => rule.backends.iter().collect(),
        None => Vec::new(),
    };
    endpoints_of(backends)
}

fn of_tls(rules: &[proto::TlsRule]) -> Vec<&proto::WeightedBackend> {
    let rules = rules.iter().flat_map(|r| &r.rule);
    rules.flat_map(|r| &r.backends).collect()
}

fn of_hosts(hosts: &[proto::VirtualHost]) -> Vec<&proto::WeightedBackend> {
    let rules = hosts.iter().flat_map(|host| &host.rules);
    rules.flat_map(|r| &r.backends).collect()
}

/// Returns the keys of the endpoints of the backends of a gateway port.
fn referenced_by_port(port: &proto::Resource) -> BTreeSet<String> {
    use proto::gateway_port::Serving;
    use proto::tls_listener::Serving as Tls;
    let Some(Body::Port(port)) = &port.body else {
        return BTreeSet::new();
    };
    let of_services = port.services.iter().flat_map(|of| &of.rules);
    let of_services = of_services.chain(&port.rules);
    let of_services = of_services.flat_map(|rule| &rule.backends);
    let mut backends: Vec<_> = match &port.serving {
        Some(Serving::Http(http) | Serving::SharedHttp(http) | Serving::FilteredHttp(http)) => {
            let listeners = http.listeners.iter();
            listeners.flat_map(|of| of_hosts(&of.hosts)).collect()
        }
        Some(Serving::Tls(tls) | Serving::SharedTls(tls) | Serving::FilteredTls(tls)) => {
            let listeners = tls.listeners.iter().flat_map(|of| &of.serving);
            listeners
                .flat_map(|serving| match serving {
                    Tls::Http(http) => of_hosts(&http.hosts),
                    Tls::Bytes(bytes) => of_tls(&bytes.rules),
                })
                .collect()
        }
        Some(Serving::Tcp(stream) | Serving::Udp(stream)) => {
            let rules = stream.rule.iter();
            rules.flat_map(|rule| &rule.backends).collect()
        }
        None => Vec::new(),
    };
    backends.extend(of_services);
    endpoints_of(backends)
}

fn endpoints_of(backends: Vec<&proto::WeightedBackend>) -> BTreeSet<String> {
    let keys = backends
        .iter()
        .filter_map(|backend| match &backend.backend {
            Some(Backend::Service(id)) => endpoints_key(id),
            _ => None,
        });
    keys.collect()
}

fn endpoints_key(id: &proto::ServicePort) -> Option<String> {
    let proto::ServicePort {
        namespace,
        name,
        port,
    } = id;
    Some(match name.as_ref()? {
        Name::Service(name) => format!("endpoints/{namespace}/{name}:{port}"),
        Name::ServiceImport(name) => format!("endpoints/serviceimport/{namespace}/{name}:{port}"),
    })
}

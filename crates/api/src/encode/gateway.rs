//! Encodes gateways.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use weft_ir::{
    AlternativeName, BackendRoots, BackendTls, ClientValidation, ExternalAuth, ForwardedHeader,
    ForwardedTrust, Gateway, GatewayId, GatewayPort, HostPattern, HttpListener, KeyPair,
    ResourceKey, RouteId, Rule, ServerTls, ServiceRules, Serving, StreamListener, TlsListener,
    TlsServing, VirtualHost,
};

use super::external_auth::listener_filters;
use super::rules::{connection_rule, rule, tls_rule};
use super::{Body, DIGEST, digest, resource, service_port};
use crate::proto;

/// Encodes the settings of a gateway.
pub fn gateway(of: &Gateway) -> proto::Resource {
    let Gateway {
        id: GatewayId { namespace, name },
        client_certificate,
        forwarded,
        proxy_protocol,
        normalize_paths,
    } = of;
    let ForwardedTrust {
        hops,
        header,
        proxies,
    } = forwarded;
    let body = Body::Gateway(proto::Gateway {
        namespace: namespace.to_string(),
        name: name.to_string(),
        client_certificate: client_certificate.as_ref().map(key_pair),
        trusted_hops: *hops,
        proxy_protocol: *proxy_protocol,
        trusted_proxies: proxies.iter().map(ToString::to_string).collect(),
        trusts_forwarded: *header == ForwardedHeader::Forwarded,
        keeps_paths: !normalize_paths,
    });
    resource(&ResourceKey::Gateway, body)
}

/// Encodes a port of a gateway.
pub fn gateway_port(of: &GatewayPort) -> proto::Resource {
    use proto::gateway_port::Serving as Wire;
    let GatewayPort {
        port,
        serving,
        services,
    } = of;
    let mut table = RuleTable::default();
    let serving = match serving {
        Serving::Http(listeners) => {
            let of = listeners.iter().map(|of| http_listener(of, &mut table));
            let wire = proto::HttpListeners {
                listeners: of.collect(),
            };
            match listeners.iter().any(|of| !of.external_auth.is_empty()) {
                true => Wire::FilteredHttp(wire),
                false => Wire::SharedHttp(wire),
            }
        }
        Serving::Tls(listeners) => {
            let of = listeners.iter().map(|of| tls_listener(of, &mut table));
            let wire = proto::TlsListeners {
                listeners: of.collect(),
            };
            match listeners.iter().any(has_filters) {
                true => Wire::FilteredTls(wire),
                false => Wire::SharedTls(wire),
            }
        }
        Serving::Tcp(listener) => Wire::Tcp(stream_listener(listener)),
        Serving::Udp(listener) => Wire::Udp(stream_listener(listener)),
    };
    let body = Body::Port(proto::GatewayPort {
        port: u32::from(*port),
        serving: Some(serving),
        services: services.iter().map(|of| service_rules(of)).collect(),
        rules: table.rules,
    });
    resource(&ResourceKey::Port(of.transport(), *port), body)
}

fn has_filters(of: &TlsListener) -> bool {
    matches!(&of.serving, TlsServing::Http { external_auth, .. } if !external_auth.is_empty())
}

/// The rules of a port, each once, in the order in which hosts first refer to them.
#[derive(Default)]
struct RuleTable {
    /// By the address of the rule: hosts that share a rule hold the same `Arc`.
    indexes: HashMap<*const Rule, u32>,
    rules: Vec<proto::Rule>,
}

impl RuleTable {
    fn index_of(&mut self, of: &Arc<Rule>) -> u32 {
        *self.indexes.entry(Arc::as_ptr(of)).or_insert_with(|| {
            self.rules.push(rule(of));
            // A port has fewer rules, since they are held in memory.
            u32::try_from(self.rules.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

/// A digest of the configuration of a route on a listener, by listener and route.
pub type RouteDigests = HashMap<(Arc<str>, RouteId), u64>;

/// Returns the digests of the routes on a port. Two versions of a port with the same digest
/// configure a route on a listener in the same way, regardless of other routes.
pub fn route_digests(of: &GatewayPort) -> RouteDigests {
    let mut all = RouteDigests::new();
    let mut known = HashMap::new();
    match &of.serving {
        Serving::Http(listeners) => {
            for listener in listeners {
                let of = (&listener.name, &*listener.external_auth);
                digest_hosts(&mut all, &mut known, of, &listener.hosts);
            }
        }
        Serving::Tls(listeners) => {
            for TlsListener { name, serving, .. } in listeners {
                match serving {
                    TlsServing::Http {
                        tls: _,
                        external_auth,
                        hosts,
                    } => {
                        digest_hosts(&mut all, &mut known, (name, external_auth), hosts);
                    }
                    TlsServing::Terminate { tls: _, rules } | TlsServing::Passthrough { rules } => {
                        for one in rules {
                            let encoded = tls_rule(one).encode_to_vec();
                            add_digest(&mut all, (name, &one.rule.route), "", &encoded);
                        }
                    }
                }
            }
        }
        Serving::Tcp(StreamListener { name, rule })
        | Serving::Udp(StreamListener { name, rule }) => {
            if let Some(one) = rule {
                let encoded = connection_rule(one).encode_to_vec();
                add_digest(&mut all, (name, &one.route), "", &encoded);
            }
        }
    }
    all
}

/// `known` has the digests of rules by address, so that each is encoded once.
fn digest_hosts(
    all: &mut RouteDigests,
    known: &mut HashMap<*const Rule, u64>,
    (listener, external_auth): (&Arc<str>, &[Arc<ExternalAuth>]),
    hosts: &[VirtualHost],
) {
    let filters = listener_filters(external_auth).into_iter();
    let filters: Vec<u8> = filters.flat_map(|of| of.encode_to_vec()).collect();
    for VirtualHost { host: name, rules } in hosts {
        let name = host(name.as_ref());
        for one in rules {
            let encoded = *known
                .entry(Arc::as_ptr(one))
                .or_insert_with(|| digest(DIGEST, &rule(one).encode_to_vec()));
            let encoded = encoded.to_be_bytes();
            add_digest(all, (listener, &one.route), &name, &encoded);
            if !filters.is_empty() {
                add_digest(all, (listener, &one.route), "", &filters);
            }
        }
    }
}

fn add_digest(
    all: &mut RouteDigests,
    (listener, route): (&Arc<str>, &RouteId),
    host: &str,
    encoded: &[u8],
) {
    let place = (Arc::clone(listener), route.clone());
    let so_far = all.entry(place).or_insert(DIGEST);
    // Terminates the host name, which cannot contain this byte.
    for bytes in [host.as_bytes(), &[0], encoded] {
        *so_far = digest(*so_far, bytes);
    }
}

fn service_rules(of: &ServiceRules) -> proto::ServiceRules {
    let ServiceRules { id, rules } = of;
    proto::ServiceRules {
        id: Some(service_port(id)),
        rules: rules.iter().map(|of| rule(of)).collect(),
    }
}

fn key_pair(of: &KeyPair) -> proto::KeyPair {
    let KeyPair { chain, key } = of;
    proto::KeyPair {
        chain: chain.to_vec().into(),
        key: key.to_vec().into(),
    }
}

fn http_listener(of: &HttpListener, table: &mut RuleTable) -> proto::HttpListener {
    let HttpListener {
        name,
        hostname,
        external_auth,
        hosts,
    } = of;
    proto::HttpListener {
        name: name.to_string(),
        hostname: host(hostname.as_ref()),
        hosts: virtual_hosts(hosts, table),
        filters: listener_filters(external_auth),
    }
}

fn host(of: Option<&HostPattern>) -> String {
    of.map(ToString::to_string).unwrap_or_default()
}

fn virtual_hosts(of: &[VirtualHost], table: &mut RuleTable) -> Vec<proto::VirtualHost> {
    let hosts = of.iter().map(|VirtualHost { host: name, rules }| {
        let rule_indexes = rules.iter().map(|rule| table.index_of(rule));
        proto::VirtualHost {
            host: host(name.as_ref()),
            rules: Vec::new(),
            rule_indexes: rule_indexes.collect(),
        }
    });
    hosts.collect()
}

fn tls_listener(of: &TlsListener, table: &mut RuleTable) -> proto::TlsListener {
    use proto::tls_listener::Serving as Wire;
    let TlsListener {
        name,
        hostname,
        serving,
    } = of;
    let bytes = |rules: &[weft_ir::TlsRule]| {
        Wire::Bytes(proto::TlsRouting {
            rules: rules.iter().map(tls_rule).collect(),
        })
    };
    let (tls, serving) = match serving {
        TlsServing::Http {
            tls,
            external_auth,
            hosts,
        } => {
            let of = proto::VirtualHosts {
                hosts: virtual_hosts(hosts, table),
                filters: listener_filters(external_auth),
            };
            (Some(tls), Wire::Http(of))
        }
        TlsServing::Terminate { tls, rules } => (Some(tls), bytes(rules)),
        TlsServing::Passthrough { rules } => (None, bytes(rules)),
    };
    proto::TlsListener {
        name: name.to_string(),
        hostname: host(hostname.as_ref()),
        tls: tls.map(server_tls),
        serving: Some(serving),
    }
}

fn server_tls(of: &ServerTls) -> proto::ServerTls {
    let ServerTls {
        certificates,
        clients,
    } = of;
    let validation = |of: &ClientValidation| {
        let ClientValidation {
            roots,
            insecure_fallback,
        } = of;
        proto::ClientValidation {
            roots: roots.to_vec().into(),
            insecure_fallback: *insecure_fallback,
        }
    };
    proto::ServerTls {
        certificates: certificates.iter().map(key_pair).collect(),
        clients: clients.as_ref().map(validation),
    }
}

fn stream_listener(of: &StreamListener) -> proto::StreamListener {
    let StreamListener { name, rule } = of;
    proto::StreamListener {
        name: name.to_string(),
        rule: rule.as_ref().map(connection_rule),
    }
}

pub(super) fn backend_tls(of: &BackendTls) -> proto::BackendTls {
    use proto::alternative_name::Kind;
    let BackendTls {
        hostname,
        alternative_names,
        roots,
    } = of;
    let alternative = |of: &AlternativeName| proto::AlternativeName {
        kind: Some(match of {
            AlternativeName::Dns(name) => Kind::Dns(name.to_string()),
            AlternativeName::Uri(name) => Kind::Uri(name.to_string()),
        }),
    };
    proto::BackendTls {
        hostname: hostname.to_string(),
        alternative_names: alternative_names.iter().map(alternative).collect(),
        roots: match roots {
            BackendRoots::System => Vec::new().into(),
            BackendRoots::Pem(pem) => pem.to_vec().into(),
        },
        system_roots: *roots == BackendRoots::System,
    }
}

//! Decodes gateways. Certificates and keys are not parsed here.

use std::sync::Arc;

use weft_ir::{
    AlternativeName, BackendRoots, BackendTls, ClientValidation, ForwardedHeader, ForwardedTrust,
    Gateway, GatewayId, GatewayPort, HostPattern, HttpListener, KeyPair, Rule, ServerTls,
    ServiceRules, Serving, StreamListener, TlsListener, TlsServing, VirtualHost,
};

use super::external_auth::listener_filters;
use super::rules::{connection_rule, rule, tls_rule};
use super::{Context, DecodeError, Decoded, all, invalid, service_port};
use crate::proto;

pub(super) fn gateway(wire: proto::Gateway) -> Decoded<Gateway> {
    let proto::Gateway {
        namespace,
        name,
        client_certificate,
        trusted_hops,
        proxy_protocol,
        trusted_proxies,
        trusts_forwarded,
        keeps_paths,
    } = wire;
    let network = |cidr: String| {
        cidr.parse()
            .map_err(|_| invalid("gateway.trusted_proxies")(&cidr))
    };
    Ok(Gateway {
        id: GatewayId::new(namespace, name),
        client_certificate: client_certificate.map(key_pair),
        forwarded: ForwardedTrust {
            hops: trusted_hops,
            header: match trusts_forwarded {
                true => ForwardedHeader::Forwarded,
                false => ForwardedHeader::XForwardedFor,
            },
            proxies: all(trusted_proxies, network)?,
        },
        proxy_protocol,
        normalize_paths: !keeps_paths,
    })
}

pub(super) fn gateway_port(
    wire: proto::GatewayPort,
    context: &Context<'_>,
) -> Decoded<GatewayPort> {
    use proto::gateway_port::Serving as Wire;
    let proto::GatewayPort {
        port,
        serving,
        services,
        rules,
    } = wire;
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| invalid("port.port")(&"not a port number"))?;
    let table = all(rules, |wire| rule(wire, context))?;
    let table = (&*table, context);
    let serving = match serving.ok_or(DecodeError::Absent("port.serving"))? {
        Wire::Http(wire) | Wire::SharedHttp(wire) | Wire::FilteredHttp(wire) => {
            let listener = |wire| http_listener(wire, table);
            Serving::Http(all(wire.listeners, listener)?)
        }
        Wire::Tls(wire) | Wire::SharedTls(wire) | Wire::FilteredTls(wire) => {
            let listener = |wire| tls_listener(wire, table);
            Serving::Tls(all(wire.listeners, listener)?)
        }
        Wire::Tcp(wire) => Serving::Tcp(stream_listener(wire)?),
        Wire::Udp(wire) => Serving::Udp(stream_listener(wire)?),
    };
    Ok(GatewayPort {
        port,
        serving,
        services: all(services, |wire| service_rules(wire, context))?,
    })
}

fn service_rules(wire: proto::ServiceRules, context: &Context<'_>) -> Decoded<Arc<ServiceRules>> {
    let proto::ServiceRules { id, rules } = wire;
    let id = service_port(id.ok_or(DecodeError::Absent("port.services.id"))?)?;
    let rules = all(rules, |wire| rule(wire, context))?;
    Ok(Arc::new(ServiceRules { id, rules }))
}

fn key_pair(wire: proto::KeyPair) -> KeyPair {
    let proto::KeyPair { chain, key } = wire;
    KeyPair {
        chain: (*chain).into(),
        key: (*key).into(),
    }
}

/// The rules that hosts refer to by index, and the context to decode further ones.
type Table<'t, 'p> = (&'t [Arc<Rule>], &'t Context<'p>);

fn http_listener(wire: proto::HttpListener, table: Table<'_, '_>) -> Decoded<HttpListener> {
    let proto::HttpListener {
        name,
        hostname,
        hosts,
        filters,
    } = wire;
    Ok(HttpListener {
        name: name.into(),
        hostname: host(&hostname)?,
        external_auth: listener_filters(filters)?,
        hosts: all(hosts, |wire| virtual_host(wire, table))?,
    })
}

fn host(text: &str) -> Decoded<Option<HostPattern>> {
    let parse = |text: &str| text.parse::<HostPattern>();
    let named = (!text.is_empty()).then(|| parse(text));
    named
        .transpose()
        .map_err(|error| invalid("listener.hostname")(&error))
}

fn virtual_host(wire: proto::VirtualHost, table: Table<'_, '_>) -> Decoded<VirtualHost> {
    let proto::VirtualHost {
        host: name,
        rules,
        rule_indexes,
    } = wire;
    let (table, context) = table;
    let mut rules = all(rules, |wire| rule(wire, context))?;
    rules.reserve_exact(rule_indexes.len());
    for index in rule_indexes {
        let at = usize::try_from(index).ok();
        let shared = at.and_then(|at| table.get(at)).ok_or_else(|| {
            let why = format_args!("{index}, of {} rules", table.len());
            invalid("host.rule_indexes")(&why)
        })?;
        rules.push(Arc::clone(shared));
    }
    Ok(VirtualHost {
        host: host(&name)?,
        rules,
    })
}

fn tls_listener(wire: proto::TlsListener, table: Table<'_, '_>) -> Decoded<TlsListener> {
    use proto::tls_listener::Serving as Wire;
    let proto::TlsListener {
        name,
        hostname,
        tls,
        serving,
    } = wire;
    let tls = tls.map(server_tls).transpose()?;
    let serving = match (serving.ok_or(DecodeError::Absent("listener.serving"))?, tls) {
        (Wire::Http(wire), Some(tls)) => TlsServing::Http {
            tls,
            external_auth: listener_filters(wire.filters)?,
            hosts: all(wire.hosts, |wire| virtual_host(wire, table))?,
        },
        (Wire::Http(_), None) => return Err(DecodeError::Absent("listener.tls")),
        (Wire::Bytes(wire), Some(tls)) => TlsServing::Terminate {
            tls,
            rules: all(wire.rules, tls_rule)?,
        },
        (Wire::Bytes(wire), None) => TlsServing::Passthrough {
            rules: all(wire.rules, tls_rule)?,
        },
    };
    Ok(TlsListener {
        name: name.into(),
        hostname: host(&hostname)?,
        serving,
    })
}

fn server_tls(wire: proto::ServerTls) -> Decoded<ServerTls> {
    let proto::ServerTls {
        certificates,
        clients,
    } = wire;
    if certificates.is_empty() {
        return Err(DecodeError::Absent("tls.certificates"));
    }
    let validation = |wire: proto::ClientValidation| ClientValidation {
        roots: (*wire.roots).into(),
        insecure_fallback: wire.insecure_fallback,
    };
    Ok(ServerTls {
        certificates: certificates.into_iter().map(key_pair).collect(),
        clients: clients.map(validation),
    })
}

fn stream_listener(wire: proto::StreamListener) -> Decoded<StreamListener> {
    let proto::StreamListener { name, rule } = wire;
    Ok(StreamListener {
        name: name.into(),
        rule: rule.map(connection_rule).transpose()?,
    })
}

pub(super) fn backend_tls(wire: proto::BackendTls) -> Decoded<BackendTls> {
    use proto::alternative_name::Kind;
    let proto::BackendTls {
        hostname,
        alternative_names,
        roots,
        system_roots,
    } = wire;
    let alternative = |wire: proto::AlternativeName| {
        // An unsupported name must not be dropped: fewer names would weaken the check.
        Ok(
            match wire
                .kind
                .ok_or(DecodeError::Absent("tls.alternative_names"))?
            {
                Kind::Dns(name) => AlternativeName::Dns(name.into()),
                Kind::Uri(name) => AlternativeName::Uri(name.into()),
            },
        )
    };
    Ok(BackendTls {
        hostname: hostname.into(),
        alternative_names: all(alternative_names, alternative)?,
        roots: if system_roots {
            BackendRoots::System
        } else {
            BackendRoots::Pem((*roots).into())
        },
    })
}

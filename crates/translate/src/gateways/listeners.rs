//! Listeners of Gateways and ListenerSets, each by itself: its socket, the routes that it allows,
//! and its certificates.
//!
//! Source: `Listener`, `ListenerEntry`, `ListenerTLSConfig`, `AllowedRoutes`. Conflicts between
//! listeners are the subject of other modules.

use std::sync::Arc;

use weft_ir::{HostPattern, KeyPair, RouteKind, ServerTls, Transport};

use super::frontend::FrontendValidations;
use super::listener_filters::{self, ReadFilters};
use super::scopes::NamespaceScope;
use crate::conditions::Fault;
use crate::names::{GROUP, unknown_option};
use crate::objects::port_number;
use crate::objects::{AllowedRoutes, GroupKind, Lenient, Listener, ListenerTls};
use crate::references::certificates::{CERTIFICATE, CertificateReader};
use crate::routes::Resolver;

/// Ports on which the proxy of a gateway serves metrics and readiness.
const RESERVED: [u16; 2] = [15020, 15021];

/// A listener of a Gateway or of one of its ListenerSets.
#[derive(Debug)]
pub(crate) struct BoundListener<'a> {
    pub(crate) spec: &'a Listener,
    /// Name for proxies: the listener's name, or `namespace/listenerset/name`.
    pub(crate) label: Arc<str>,
    /// Namespace of the Gateway or ListenerSet.
    pub(crate) namespace: Arc<str>,
    /// Kinds of routes that can attach.
    pub(crate) kinds: Vec<RouteKind>,
    pub(crate) scope: NamespaceScope<'a>,
    /// The socket, or why the listener cannot have one.
    pub(crate) socket: Result<ListenerSocket, Fault>,
    /// `None` if TLS is not terminated, or cannot be.
    pub(crate) tls: Option<ServerTls>,
    /// Filters that every request has to pass.
    pub(crate) filters: ReadFilters,
    /// Faults of the condition ResolvedRefs.
    pub(crate) unresolved: Vec<Fault>,
    /// A conflict with another listener about the protocol or the host name.
    pub(crate) conflict: Option<Fault>,
    /// A protective setting is not supported. The listener keeps its socket, so that no other
    /// listener gets its traffic, and serves nothing.
    pub(crate) closed: Option<Fault>,
    /// For the message: other TLS-terminating listeners of the port with overlapping host names.
    pub(crate) overlapping: Option<String>,
}

/// What a listener listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerSocket {
    pub(crate) port: u16,
    pub(crate) protocol: ListenerProtocol,
    pub(crate) hostname: Option<HostPattern>,
}

/// The protocol of a listener, with its TLS mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListenerProtocol {
    Http,
    Https,
    TlsTerminate,
    TlsPassthrough,
    Tcp,
    Udp,
}

impl ListenerProtocol {
    /// Returns the kinds of routes that listeners of this protocol support.
    fn kinds(self) -> &'static [RouteKind] {
        match self {
            Self::Http | Self::Https => &[RouteKind::Http, RouteKind::Grpc],
            Self::TlsTerminate | Self::TlsPassthrough => &[RouteKind::Tls],
            Self::Tcp => &[RouteKind::Tcp],
            Self::Udp => &[RouteKind::Udp],
        }
    }

    pub(crate) fn transport(self) -> Transport {
        match self {
            Self::Udp => Transport::Udp,
            _ => Transport::Tcp,
        }
    }

    pub(crate) fn terminates(self) -> bool {
        matches!(self, Self::Https | Self::TlsTerminate)
    }
}

impl BoundListener<'_> {
    /// Errors are the reason and message of Accepted=False.
    pub(crate) fn accepted(&self) -> Result<&ListenerSocket, &Fault> {
        match (
            &self.socket,
            self.closed.as_ref().or(self.conflict.as_ref()),
        ) {
            (Err(fault), _) | (Ok(_), Some(fault)) => Err(fault),
            (Ok(socket), None) => Ok(socket),
        }
    }

    /// Returns the socket of a listener that serves nothing, though it keeps the socket.
    pub(crate) fn closed_socket(&self) -> Option<&ListenerSocket> {
        let socket = self.socket.as_ref().ok()?;
        (self.closed.is_some() && self.conflict.is_none()).then_some(socket)
    }

    /// Errors are the reason and message of Programmed=False, as far as they depend on the listener
    /// itself.
    pub(crate) fn usable(&self) -> Result<&ListenerSocket, Fault> {
        let socket = self.accepted().map_err(Fault::clone)?;
        if socket.protocol.terminates() && self.tls.is_none() {
            let why: Vec<&str> = self.unresolved.iter().map(|fault| &*fault.text).collect();
            let text = format!("no certificate is usable: {}", why.join("; "));
            return Err(Fault {
                reason: "Invalid",
                text,
            });
        }
        Ok(socket)
    }
}

/// The object that listeners belong to.
#[derive(Clone, Copy)]
pub(crate) struct ListenerOwner<'a> {
    pub(crate) namespace: &'a str,
    /// The ListenerSet; `None` for the Gateway itself.
    pub(crate) set: Option<&'a str>,
    /// Resolves its certificate references.
    pub(crate) reader: CertificateReader<'a>,
    /// Resolves the servers of its filters; `None` if only the listeners' sockets are wanted.
    pub(crate) backends: Option<&'a Resolver>,
    /// The error is why the validation of clients is not known.
    pub(crate) frontend: Result<&'a FrontendValidations, &'a Fault>,
}

pub(crate) fn bind<'a>(spec: &'a Listener, owner: ListenerOwner<'_>) -> BoundListener<'a> {
    let Listener {
        name,
        hostname: _,
        port: _,
        protocol: _,
        tls: _,
        allowed_routes,
        filters: _,
    } = spec;
    let label: Arc<str> = match owner.set {
        None => Arc::from(&**name),
        Some(set) => format!("{}/{set}/{name}", owner.namespace).into(),
    };
    let mut socket = socket(spec);
    let filters = listener_filters::read(spec, owner.reader.from, owner.backends);
    let (filters, unknown) = match filters {
        Ok(read) => (read, None),
        Err(fault) => (ReadFilters::default(), Some(fault)),
    };
    let mut closed = unknown.or_else(|| unknown_protection(spec));
    let scope = scope(allowed_routes).unwrap_or_else(|fault| {
        closed.get_or_insert(fault);
        NamespaceScope::None
    });
    if let (Ok(socket), Err(fault)) = (&socket, owner.frontend)
        && socket.protocol == ListenerProtocol::Https
    {
        closed.get_or_insert_with(|| fault.clone());
    }
    let open = socket.as_ref().ok().filter(|_| closed.is_none());
    let protocol = open.map(|socket| socket.protocol);
    let (kinds, mut unresolved) = protocol
        .map(|protocol| kinds(allowed_routes, protocol))
        .unwrap_or_default();
    let (certificates, certificate_faults) = protocol
        .filter(|protocol| protocol.terminates())
        .map(|_| certificates(&spec.tls, owner.reader))
        .unwrap_or_default();
    unresolved.extend(certificate_faults);
    unresolved.extend_from_slice(&filters.unresolved);
    let mut clients = None;
    if let Ok(ListenerSocket {
        port,
        protocol: ListenerProtocol::Https,
        ..
    }) = socket
        && let Some(validation) = owner.frontend.ok().and_then(|frontend| frontend.of(port))
    {
        unresolved.extend_from_slice(&validation.unresolved);
        match &validation.clients {
            Ok(valid) => clients = Some(valid.clone()),
            Err(fault) => socket = Err(fault.clone()),
        }
    }
    BoundListener {
        spec,
        label,
        namespace: Arc::from(owner.namespace),
        kinds,
        scope,
        socket,
        tls: (!certificates.is_empty()).then_some(ServerTls {
            certificates,
            clients,
        }),
        filters,
        unresolved,
        conflict: None,
        closed,
        overlapping: None,
    }
}

/// Returns a fault for unsupported protective settings: without them, the listener would serve more
/// than intended.
fn unknown_protection(spec: &Listener) -> Option<Fault> {
    let tls = match spec.tls.as_ref() {
        Err(why) => return Some(Fault::value("tls", why)),
        Ok(tls) => tls.as_ref()?,
    };
    if let (Some(mode), "HTTPS" | "TLS") = (tls.mode.as_deref(), &*spec.protocol)
        && !matches!(mode, "Terminate" | "Passthrough")
    {
        let why =
            format_args!("{mode:?} is not supported; supported modes are Terminate, Passthrough");
        return Some(Fault::value("tls.mode", why));
    }
    unknown_option(&tls.options).map(|name| {
        let why = format_args!("option {name:?} is not supported");
        Fault::value("tls.options", why)
    })
}

fn socket(spec: &Listener) -> Result<ListenerSocket, Fault> {
    let refuse = |reason, text: String| Err(Fault { reason, text });
    // If the field cannot be read, the listener is closed on the socket of its protocol.
    let tls = spec.tls.as_ref().ok().and_then(Option::as_ref);
    let mode = tls.and_then(|tls| tls.mode.as_deref());
    let protocol = match (&*spec.protocol, mode.unwrap_or("Terminate")) {
        ("HTTP", _) => ListenerProtocol::Http,
        ("TCP", _) => ListenerProtocol::Tcp,
        ("UDP", _) => ListenerProtocol::Udp,
        ("HTTPS", "Terminate") => ListenerProtocol::Https,
        ("TLS", "Terminate") => ListenerProtocol::TlsTerminate,
        ("TLS", "Passthrough") => ListenerProtocol::TlsPassthrough,
        ("HTTPS", "Passthrough") => {
            let why =
                "protocol HTTPS cannot have mode Passthrough; use protocol TLS for passthrough";
            return Err(Fault::value("tls.mode", why));
        }
        ("HTTPS", _) => ListenerProtocol::Https,
        ("TLS", _) => ListenerProtocol::TlsPassthrough,
        (other, _) => {
            return refuse(
                "UnsupportedProtocol",
                format!(
                    "protocol: {other:?} is not supported; supported protocols are HTTP, HTTPS, \
                     TLS, TCP, UDP"
                ),
            );
        }
    };
    if tls.is_some()
        && matches!(
            protocol,
            ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::Udp
        )
    {
        let why = format_args!(
            "not allowed with protocol {}; remove it, or use HTTPS or TLS",
            spec.protocol
        );
        return Err(Fault::value("tls", why));
    }
    let Some(port) = port_number(spec.port) else {
        let why = format!("port: {} is not between 1 and 65535", spec.port);
        return refuse("PortUnavailable", why);
    };
    if protocol.transport() == Transport::Tcp && RESERVED.contains(&port) {
        let why = format!(
            "port: {port} is reserved for the proxy's metrics and readiness; choose another"
        );
        return refuse("PortUnavailable", why);
    }
    let hostname = match (protocol, &*spec.hostname) {
        (ListenerProtocol::Tcp | ListenerProtocol::Udp, _) | (_, "") => None,
        (_, text) => {
            let parsed = text.parse::<HostPattern>();
            Some(parsed.map_err(|error| Fault::value("hostname", error))?)
        }
    };
    Ok(ListenerSocket {
        port,
        protocol,
        hostname,
    })
}

fn scope(spec: &Lenient<Option<AllowedRoutes>>) -> Result<NamespaceScope<'_>, Fault> {
    let spec = spec
        .as_ref()
        .map_err(|why| Fault::value("allowedRoutes", why))?;
    let namespaces = spec.as_ref().and_then(|spec| spec.namespaces.as_ref());
    NamespaceScope::new(namespaces, NamespaceScope::Same, "allowedRoutes.namespaces").map_err(
        |text| Fault {
            reason: "UnsupportedValue",
            text,
        },
    )
}

/// Returns the allowed kinds, in the order of `ListenerProtocol::kinds`, and the faults of the
/// others.
fn kinds(
    spec: &Lenient<Option<AllowedRoutes>>,
    protocol: ListenerProtocol,
) -> (Vec<RouteKind>, Vec<Fault>) {
    let mut kinds = protocol.kinds().to_vec();
    let entries = match spec.as_ref() {
        Ok(Some(AllowedRoutes { kinds, .. })) if !kinds.is_empty() => kinds,
        _ => return (kinds, Vec::new()),
    };
    let (mut allowed, mut unresolved) = (Vec::new(), Vec::new());
    for (position, entry) in entries.iter().enumerate() {
        let found = entry.as_ref().map_err(str::to_owned).and_then(|entry| {
            let GroupKind { group, kind } = entry;
            let ours = group.as_deref().unwrap_or(GROUP) == GROUP;
            let mut known = protocol.kinds().iter().copied();
            known
                .find(|known| ours && known.to_string() == *kind)
                .ok_or_else(|| format!("{kind} is not supported by a listener of this protocol"))
        });
        match found {
            Ok(kind) => allowed.push(kind),
            Err(why) => {
                let known: Vec<String> =
                    protocol.kinds().iter().map(RouteKind::to_string).collect();
                unresolved.push(Fault {
                    reason: "InvalidRouteKinds",
                    text: format!(
                        "allowedRoutes.kinds[{position}]: {why}; supported kinds are {} of group \
                         {GROUP}",
                        known.join(", ")
                    ),
                });
            }
        }
    }
    kinds.retain(|kind| allowed.contains(kind));
    (kinds, unresolved)
}

/// Returns the usable certificates, and the faults of the references.
fn certificates(
    tls: &Lenient<Option<ListenerTls>>,
    reader: CertificateReader<'_>,
) -> (Vec<KeyPair>, Vec<Fault>) {
    let refs = match tls.as_ref() {
        Ok(Some(tls)) => tls.certificate_refs.as_slice(),
        _ => &[],
    };
    let (mut pairs, mut unresolved) = (Vec::new(), Vec::new());
    if refs.is_empty() {
        unresolved.push(Fault {
            reason: CERTIFICATE.referent,
            text: "tls.certificateRefs is empty; refer to a Secret of type kubernetes.io/tls"
                .to_owned(),
        });
    }
    for (position, entry) in refs.iter().enumerate() {
        match reader.key_pair(
            entry,
            &format!("tls.certificateRefs[{position}]"),
            CERTIFICATE,
        ) {
            Ok((pair, gone)) => {
                pairs.push(pair);
                unresolved.extend(gone);
            }
            Err(fault) => unresolved.push(fault),
        }
    }
    (pairs, unresolved)
}

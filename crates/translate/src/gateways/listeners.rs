//! Listeners, each by itself: what it listens on, which routes it lets in, and its certificates.
//!
//! Source: `Listener`, `ListenerEntry`, `ListenerTLSConfig`, `AllowedRoutes`, `ListenerFilters` (GEP-5224). What several
//! have against each other is decided elsewhere.

use std::sync::Arc;

use weft_ir::{HostPattern, KeyPair, RouteKind, ServerTls, Transport};

use super::frontend::Frontend;
use super::scopes::Scope;
use crate::conditions::Fault;
use crate::names::{GROUP, unknown_option};
use crate::objects::port_number;
use crate::objects::{AllowedRoutes, GroupKind, Lenient, Listener, ListenerTls};
use crate::references::certificates::{CERTIFICATE, Reader};

/// Where a gateway's proxy answers metrics and readiness itself.
const RESERVED: [u16; 2] = [15020, 15021];

/// One listener of a Gateway, or of a ListenerSet of it.
#[derive(Debug)]
pub(crate) struct Bound<'a> {
    pub(crate) spec: &'a Listener,
    /// For proxies: its name, or `namespace/listenerset/name`.
    pub(crate) label: Arc<str>,
    /// Of the Gateway or ListenerSet.
    pub(crate) namespace: Arc<str>,
    /// Those that may attach.
    pub(crate) kinds: Vec<RouteKind>,
    pub(crate) scope: Scope<'a>,
    /// What it listens on, or why it cannot.
    pub(crate) socket: Result<Socket, Fault>,
    /// `None` where TLS is not terminated, and where it could not be.
    pub(crate) tls: Option<ServerTls>,
    /// Decide about ResolvedRefs.
    pub(crate) unresolved: Vec<Fault>,
    /// Others listen there, or with the same host.
    pub(crate) conflict: Option<Fault>,
    /// What protects it is not understood: it keeps its place, so that no other listener has what is meant for it, and
    /// serves nothing there.
    pub(crate) closed: Option<Fault>,
    /// Others on the port whose hosts are its too, for messages; it terminates TLS, and so do they.
    pub(crate) overlapping: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) port: u16,
    pub(crate) speaks: Speaks,
    pub(crate) hostname: Option<HostPattern>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http,
    Https,
    TlsTerminated,
    TlsPassed,
    Tcp,
    Udp,
}

impl Speaks {
    /// The kinds of routes that it can serve.
    fn kinds(self) -> &'static [RouteKind] {
        match self {
            Self::Http | Self::Https => &[RouteKind::Http, RouteKind::Grpc],
            Self::TlsTerminated | Self::TlsPassed => &[RouteKind::Tls],
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
        matches!(self, Self::Https | Self::TlsTerminated)
    }
}

impl Bound<'_> {
    /// The condition Accepted.
    pub(crate) fn accepted(&self) -> Result<&Socket, &Fault> {
        match (
            &self.socket,
            self.closed.as_ref().or(self.conflict.as_ref()),
        ) {
            (Err(fault), _) | (Ok(_), Some(fault)) => Err(fault),
            (Ok(socket), None) => Ok(socket),
        }
    }

    /// Where nothing may be served, though no other listener has the place.
    pub(crate) fn shut(&self) -> Option<&Socket> {
        let socket = self.socket.as_ref().ok()?;
        (self.closed.is_some() && self.conflict.is_none()).then_some(socket)
    }

    /// The condition Programmed, as far as the listener itself decides it.
    pub(crate) fn usable(&self) -> Result<&Socket, Fault> {
        let socket = self.accepted().map_err(Fault::clone)?;
        if socket.speaks.terminates() && self.tls.is_none() {
            let why: Vec<&str> = self.unresolved.iter().map(|fault| &*fault.text).collect();
            let text = format!("there is no certificate to serve with: {}", why.join("; "));
            return Err(Fault {
                reason: "Invalid",
                text,
            });
        }
        Ok(socket)
    }
}

/// Whose listeners are read.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub(crate) namespace: &'a str,
    /// `None`: the Gateway itself.
    pub(crate) set: Option<&'a str>,
    /// For its certificates.
    pub(crate) reader: Reader<'a>,
    /// Or why it is not known how clients are to be checked.
    pub(crate) frontend: Result<&'a Frontend, &'a Fault>,
}

pub(crate) fn bind<'a>(spec: &'a Listener, owner: Owner<'_>) -> Bound<'a> {
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
    let mut unresolved = Vec::new();
    let mut socket = socket(spec);
    let mut closed = not_understood(spec);
    let scope = scope(allowed_routes).unwrap_or_else(|fault| {
        closed.get_or_insert(fault);
        Scope::None
    });
    if let (Ok(socket), Err(fault)) = (&socket, owner.frontend)
        && socket.speaks == Speaks::Https
    {
        closed.get_or_insert_with(|| fault.clone());
    }
    let kinds = match &socket {
        Ok(socket) if closed.is_none() => kinds(allowed_routes, socket.speaks, &mut unresolved),
        _ => Vec::new(),
    };
    let certificates = match &socket {
        Ok(socket) if socket.speaks.terminates() && closed.is_none() => {
            certificates(&spec.tls, owner.reader, &mut unresolved)
        }
        _ => Vec::new(),
    };
    let mut clients = None;
    if let Ok(Socket {
        port,
        speaks: Speaks::Https,
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
    Bound {
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
        unresolved,
        conflict: None,
        closed,
        overlapping: None,
    }
}

/// What protects the listener and is not understood: without it, it would serve more than it is meant to.
fn not_understood(spec: &Listener) -> Option<Fault> {
    match spec.filters.as_ref() {
        Err(why) => return Some(Fault::value("filters", why)),
        Ok(filters) => {
            if let Some(first) = filters.as_ref().and_then(|of| of.requests.first()) {
                let named = first.as_ref().map(|of| format!("type {:?}", of.kind));
                let named = named.unwrap_or_else(str::to_owned);
                let why = format_args!(
                    "{named}: filters of listeners are not supported, and without one requests would pass that it is to stop"
                );
                return Some(Fault::value("filters.requests[0]", why));
            }
        }
    }
    let tls = match spec.tls.as_ref() {
        Err(why) => return Some(Fault::value("tls", why)),
        Ok(tls) => tls.as_ref()?,
    };
    if let (Some(mode), "HTTPS" | "TLS") = (tls.mode.as_deref(), &*spec.protocol)
        && !matches!(mode, "Terminate" | "Passthrough")
    {
        let why = format_args!("{mode:?} is not supported; supported are Terminate, Passthrough");
        return Some(Fault::value("tls.mode", why));
    }
    unknown_option(&tls.options).map(|name| {
        let why = format_args!("{name:?} is not understood");
        Fault::value("tls.options", why)
    })
}

fn socket(spec: &Listener) -> Result<Socket, Fault> {
    let refuse = |reason, text: String| Err(Fault { reason, text });
    // What cannot be read closes the listener; its place is that of its protocol.
    let tls = spec.tls.as_ref().ok().and_then(Option::as_ref);
    let mode = tls.and_then(|tls| tls.mode.as_deref());
    let speaks = match (&*spec.protocol, mode.unwrap_or("Terminate")) {
        ("HTTP", _) => Speaks::Http,
        ("TCP", _) => Speaks::Tcp,
        ("UDP", _) => Speaks::Udp,
        ("HTTPS", "Terminate") => Speaks::Https,
        ("TLS", "Terminate") => Speaks::TlsTerminated,
        ("TLS", "Passthrough") => Speaks::TlsPassed,
        ("HTTPS", "Passthrough") => {
            let why =
                "protocol HTTPS cannot have mode Passthrough; use protocol TLS to pass it through";
            return Err(Fault::value("tls.mode", why));
        }
        ("HTTPS", _) => Speaks::Https,
        ("TLS", _) => Speaks::TlsPassed,
        (other, _) => {
            return refuse(
                "UnsupportedProtocol",
                format!(
                    "protocol: {other:?} is not supported; supported are HTTP, HTTPS, TLS, TCP, UDP"
                ),
            );
        }
    };
    if tls.is_some() && matches!(speaks, Speaks::Http | Speaks::Tcp | Speaks::Udp) {
        let why = format_args!(
            "protocol {} has none; remove it, or use HTTPS or TLS",
            spec.protocol
        );
        return Err(Fault::value("tls", why));
    }
    let Some(port) = port_number(spec.port) else {
        let why = format!("port: {} is not in 1 to 65535", spec.port);
        return refuse("PortUnavailable", why);
    };
    if speaks.transport() == Transport::Tcp && RESERVED.contains(&port) {
        let why =
            format!("port: {port} is the proxy's own, for metrics and readiness; choose another");
        return refuse("PortUnavailable", why);
    }
    let hostname = match (speaks, &*spec.hostname) {
        (Speaks::Tcp | Speaks::Udp, _) | (_, "") => None,
        (_, text) => {
            let parsed = text.parse::<HostPattern>();
            Some(parsed.map_err(|error| Fault::value("hostname", error))?)
        }
    };
    Ok(Socket {
        port,
        speaks,
        hostname,
    })
}

fn scope(spec: &Lenient<Option<AllowedRoutes>>) -> Result<Scope<'_>, Fault> {
    let spec = spec
        .as_ref()
        .map_err(|why| Fault::value("allowedRoutes", why))?;
    let namespaces = spec.as_ref().and_then(|spec| spec.namespaces.as_ref());
    Scope::new(namespaces, Scope::Same, "allowedRoutes.namespaces").map_err(|text| Fault {
        reason: "UnsupportedValue",
        text,
    })
}

/// Those that are allowed, in the order of `Speaks::kinds`.
fn kinds(
    spec: &Lenient<Option<AllowedRoutes>>,
    speaks: Speaks,
    unresolved: &mut Vec<Fault>,
) -> Vec<RouteKind> {
    let Ok(Some(AllowedRoutes { kinds, .. })) = spec.as_ref() else {
        return speaks.kinds().to_vec();
    };
    if kinds.is_empty() {
        return speaks.kinds().to_vec();
    }
    let mut allowed = Vec::new();
    for (place, entry) in kinds.iter().enumerate() {
        let found = entry.as_ref().map_err(str::to_owned).and_then(|entry| {
            let GroupKind { group, kind } = entry;
            let ours = group.as_deref().unwrap_or(GROUP) == GROUP;
            let mut known = speaks.kinds().iter().copied();
            known
                .find(|known| ours && known.to_string() == *kind)
                .ok_or_else(|| format!("a listener like this cannot serve {kind}"))
        });
        match found {
            Ok(kind) => allowed.push(kind),
            Err(why) => {
                let known: Vec<String> = speaks.kinds().iter().map(RouteKind::to_string).collect();
                unresolved.push(Fault {
                    reason: "InvalidRouteKinds",
                    text: format!(
                        "allowedRoutes.kinds[{place}]: {why}; it can serve {} of group {GROUP}",
                        known.join(", ")
                    ),
                });
            }
        }
    }
    let mut kinds = speaks.kinds().to_vec();
    kinds.retain(|kind| allowed.contains(kind));
    kinds
}

/// Those that hold.
fn certificates(
    tls: &Lenient<Option<ListenerTls>>,
    reader: Reader<'_>,
    unresolved: &mut Vec<Fault>,
) -> Vec<KeyPair> {
    let refs = match tls.as_ref() {
        Ok(Some(tls)) => tls.certificate_refs.as_slice(),
        _ => &[],
    };
    if refs.is_empty() {
        unresolved.push(Fault {
            reason: CERTIFICATE.referent,
            text: "tls.certificateRefs: there is none; name a Secret of type kubernetes.io/tls"
                .to_owned(),
        });
    }
    let mut pairs = Vec::new();
    for (place, entry) in refs.iter().enumerate() {
        match reader.key_pair(entry, &format!("tls.certificateRefs[{place}]"), CERTIFICATE) {
            Ok((pair, gone)) => {
                pairs.push(pair);
                unresolved.extend(gone);
            }
            Err(fault) => unresolved.push(fault),
        }
    }
    pairs
}

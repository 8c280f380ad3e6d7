//! The mesh and the statuses as YAML that resembles the routes they result from.

use std::fmt::Display;
use std::net::SocketAddr;

use serde_norway::{Mapping, Value};
use weft_ir::{
    Allowed, Backend, Choice, ConnectionRule, Cors, Destination, Endpoint, EndpointSet,
    ExternalAuth, ExternalAuthProtocol, Filter, GatewayId, HeaderEdit, HeaderSelection, Hints,
    Locality, Mirror, Mode, PathEdit, PathMatch, ProbeRequest, RequestMatch, Retry, Routing, Rule,
    Service, ServicePort, Target, TimeLimit, Timeouts, TlsRule, ValueMatch, WeightedBackend,
};
use weft_translate::{Condition, Controller, Mesh, ParentStatus, RouteStatus, Translation};

use crate::input::Queries;
use crate::{authorization, faults, gateways, traffic};

/// Returns the answers to `queries`, and every status.
pub(crate) fn translation(translation: &Translation, queries: &Queries) -> String {
    let mesh = &translation.mesh;
    let mut destinations = Mapping::new();
    let mut needed: std::collections::BTreeSet<ServicePort> = queries
        .endpoints
        .iter()
        .map(|text| text.parse().expect("NAMESPACE/NAME:PORT"))
        .collect();
    for query in &queries.destinations {
        let (address, namespace) = query.split_once(" from ").expect("ADDRESS from NAMESPACE");
        let address: SocketAddr = address.parse().expect("an address");
        let answer = mesh.destination(address, namespace);
        needed.extend(Mesh::referenced(&answer));
        destinations.insert(text(query), destination(&answer));
    }
    let nodes = match &queries.nodes[..] {
        [] => vec![String::new()],
        nodes => nodes.to_vec(),
    };
    let on = |node: &str| match node {
        "" => String::new(),
        node => format!(" on {node}"),
    };
    let mut endpoints = Mapping::new();
    for id in &needed {
        for node in &nodes {
            let on = on(node);
            let (name, set) = match mesh.endpoints(id, node) {
                Some(set) => (format!("{id} ({:?}){on}", set.protocol), endpoint_set(&set)),
                None => (format!("{id}{on}"), text("unknown")),
            };
            endpoints.insert(text(name), set);
        }
    }
    let mut workloads = Mapping::new();
    for query in &queries.workloads {
        let (namespace, name) = query.split_once('/').expect("NAMESPACE/POD");
        workloads.insert(text(query), workload(mesh, namespace, name));
    }
    let mut views = Mapping::new();
    for query in &queries.gateways {
        let (namespace, name) = query.split_once('/').expect("NAMESPACE/GATEWAY");
        let view = match mesh.gateway(&GatewayId::new(namespace, name)) {
            None => text("not ours"),
            Some(view) => {
                let references = view.references();
                let all = references
                    .iter()
                    .flat_map(|id| nodes.iter().map(move |node| (id, node)));
                for (id, node) in all {
                    let set = mesh
                        .gateway_endpoints(id, node)
                        .expect("what is referred to");
                    let tls = set.tls.as_ref().map(|tls| text(gateways::backend_tls(tls)));
                    let all = [("tls", tls), ("ready", Some(endpoint_set(&set)))];
                    let name = format!("{id} ({:?}) for gateways{}", set.protocol, on(node));
                    endpoints.insert(text(name), fields(all));
                }
                gateways::view(&view)
            }
        };
        views.insert(text(query), view);
    }
    let enforced: Mapping = queries
        .authorizations
        .iter()
        .map(|query| authorization::enforced(mesh, query))
        .collect();
    let statuses: Mapping = translation.statuses.iter().map(|of| status(of)).collect();
    let all = [
        ("destinations", destinations),
        ("endpoints", endpoints),
        ("workloads", workloads),
        ("gatewayConfiguration", views),
        ("enforced", enforced),
        ("statuses", statuses),
    ];
    let policies = authorization::statuses(translation);
    let all = all.into_iter().chain(gateways::statuses(translation));
    let of_traffic = traffic::statuses(translation);
    let direct = traffic::constraints(translation);
    let all = all.chain([
        ("authorizations", policies),
        ("traffic", of_traffic),
        ("backendTraffic", direct),
    ]);
    let missing = translation.missing_parents.iter();
    let missing = list(missing.map(|of| text(format!("{}: {}", of.route, of.message))));
    let warnings = list(translation.warnings.iter().map(text));
    let all = all.map(|(name, of)| (name, some_mapping(of)));
    let whole = fields(all.chain([("missingParents", missing), ("warnings", warnings)]));
    serde_norway::to_string(&whole).expect("YAML")
}

fn destination(destination: &Destination) -> Value {
    match &destination.target {
        Target::Unknown => text("unknown"),
        Target::Pod(pod) => text(format!("pod {}", endpoint(pod))),
        Target::Service(service) => {
            let Service {
                id,
                protocol,
                routing,
            } = service.as_ref();
            let (name, routing) = match routing {
                Routing::Direct(to) => ("direct", list(to.iter().map(backend))),
                Routing::Http(rules) => ("http", list(rules.iter().map(|of| rule(of)))),
                Routing::Grpc(rules) => ("grpc", list(rules.iter().map(|of| rule(of)))),
                Routing::Tls(rules) => ("tls", list(rules.iter().map(tls_rule))),
                Routing::Tcp(rule) => ("tcp", Some(connection_rule(rule, None))),
            };
            fields([
                ("service", Some(text(format!("{id} ({protocol:?})")))),
                (name, routing),
            ])
        }
    }
}

pub(crate) fn tls_rule(rule: &TlsRule) -> Value {
    let TlsRule { hostnames, rule } = rule;
    let hostnames = list(hostnames.iter().map(text));
    connection_rule(rule, Some(hostnames.unwrap_or_else(|| text("any"))))
}

pub(crate) fn connection_rule(rule: &ConnectionRule, hostnames: Option<Value>) -> Value {
    let ConnectionRule {
        route,
        index,
        name,
        backends,
    } = rule;
    let name = name.as_deref().map(|name| format!(" {name:?}"));
    let rule = format!("{route} [{index}]{}", name.unwrap_or_default());
    fields([
        ("rule", Some(text(rule))),
        ("hostnames", hostnames),
        ("backends", list(backends.iter().map(backend))),
    ])
}

pub(crate) fn rule(rule: &Rule) -> Value {
    let Rule {
        route,
        index,
        name,
        matches,
        filters,
        backends,
        timeouts,
        retry,
        failure,
    } = rule;
    let name = name.as_deref().map(|name| format!(" {name:?}"));
    let Timeouts {
        request,
        backend: each,
    } = timeouts;
    fields([
        (
            "rule",
            Some(text(format!(
                "{route} [{index}]{}",
                name.unwrap_or_default()
            ))),
        ),
        (
            "matches",
            list(matches.iter().map(|of| text(request_match(of)))),
        ),
        ("filters", list(filters.iter().map(filter))),
        ("backends", list(backends.iter().map(backend))),
        ("timeout", limit(*request).map(text)),
        ("backendTimeout", limit(*each).map(text)),
        ("retry", retry.as_ref().map(|of| text(self::retry(of)))),
        ("failure", failure.as_deref().map(text)),
    ])
}

pub(crate) fn request_match(condition: &RequestMatch) -> String {
    let RequestMatch {
        path,
        headers,
        query,
        method,
        invalid,
    } = condition;
    let mut parts = Vec::new();
    if *invalid {
        parts.push("INVALID".to_owned());
    }
    parts.extend(method.as_ref().map(|method| format!("method {method}")));
    parts.push(match path {
        None => "any path".to_owned(),
        Some(PathMatch::Exact(path)) => format!("path {path}"),
        Some(PathMatch::Prefix(path)) => format!("path {path}..."),
        Some(PathMatch::Regex(pattern)) => format!("path ~ {}", pattern.as_str()),
        Some(PathMatch::GrpcMethod(method)) => format!("gRPC method {method}"),
    });
    for header in headers {
        parts.push(format!("header {} {}", header.name, value(&header.value)));
    }
    for parameter in query {
        parts.push(format!(
            "query {} {}",
            parameter.name,
            value(&parameter.value)
        ));
    }
    parts.join(", ")
}

fn value(value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(text) => format!("= {text:?}"),
        ValueMatch::Regex(pattern) => format!("~ {}", pattern.as_str()),
    }
}

fn filter(filter: &Filter) -> Value {
    match filter {
        Filter::RequestHeaders(edit) => field("requestHeaders", header_edit(edit)),
        Filter::ResponseHeaders(edit) => field("responseHeaders", header_edit(edit)),
        Filter::Redirect(redirect) => {
            let edits = fields([
                ("code", Some(text(redirect.code.as_str()))),
                ("scheme", redirect.scheme.as_deref().map(text)),
                ("host", redirect.host.as_deref().map(text)),
                ("port", redirect.port.map(text)),
                ("path", redirect.path.as_ref().map(path_edit)),
            ]);
            field("redirect", edits)
        }
        Filter::Rewrite(rewrite) => {
            let host = rewrite
                .host
                .as_ref()
                .map(|host| host.to_str().expect("text"));
            let edits = fields([
                ("host", host.map(text)),
                ("path", rewrite.path.as_ref().map(path_edit)),
            ]);
            field("rewrite", edits)
        }
        Filter::Mirror(Mirror { to, fraction }) => {
            let (part, whole) = (fraction.numerator(), fraction.denominator());
            field("mirror", text(format!("{part} of {whole} to {to}")))
        }
        Filter::Cors(of) => field("cors", cors(of)),
        Filter::ExternalAuth(of) => field("externalAuth", external_auth(of)),
        Filter::Fault(of) => field("fault", text(faults::view(of))),
    }
}

pub(crate) fn external_auth(of: &ExternalAuth) -> Value {
    let ExternalAuth {
        server,
        protocol,
        body_limit,
    } = of;
    let server = match server {
        Ok(port) => port.to_string(),
        Err(why) => format!("nowhere, {why}"),
    };
    let names = |of: &[http::HeaderName]| {
        let names: Vec<&str> = of.iter().map(http::HeaderName::as_str).collect();
        (!names.is_empty()).then(|| text(names.join(", ")))
    };
    let selected = |of: &HeaderSelection| names(of.names()).or_else(|| Some(text("all")));
    let (kind, prefix, requests, responses) = match protocol {
        ExternalAuthProtocol::Http(of) => (
            "HTTP",
            (!of.path_prefix.is_empty()).then(|| text(&of.path_prefix)),
            names(&of.request_headers),
            selected(&of.response_headers),
        ),
        ExternalAuthProtocol::Grpc { request_headers } => {
            ("GRPC", None, selected(request_headers), None)
        }
    };
    fields([
        ("server", Some(text(format!("{kind} {server}")))),
        ("prefix", prefix),
        ("request headers", requests),
        ("response headers", responses),
        ("body", (*body_limit > 0).then(|| text(body_limit))),
    ])
}

/// Returns `None` if nothing is said.
pub(crate) fn limit(of: TimeLimit) -> Option<String> {
    match of {
        TimeLimit::Unsaid => None,
        TimeLimit::Unlimited => Some("none".to_owned()),
        TimeLimit::Within(limit) => Some(format!("{limit:?}")),
    }
}

pub(crate) fn retry(retry: &Retry) -> String {
    let Retry {
        codes,
        attempts,
        backoff,
    } = retry;
    let codes: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    let codes = codes.join(" ");
    format!("{attempts} times after {backoff:?} for [{codes}]")
}

fn cors(cors: &Cors) -> Value {
    let Cors {
        origins,
        credentials,
        methods,
        headers,
        expose,
        max_age,
    } = cors;
    let allowed = |of: &Allowed| match of {
        Allowed::Unsaid => None,
        Allowed::Any => Some(text("any")),
        Allowed::These(these) => Some(text(these.to_str().expect("text"))),
    };
    fields([
        ("origins", list(origins.iter().map(text))),
        ("credentials", Some(text(credentials))),
        ("methods", allowed(methods)),
        ("headers", allowed(headers)),
        ("expose", allowed(expose)),
        ("maxAge", Some(text(max_age))),
    ])
}

fn header_edit(edit: &HeaderEdit) -> Value {
    let HeaderEdit { set, add, remove } = edit;
    let pair = |(name, value): &(http::HeaderName, http::HeaderValue)| {
        text(format!("{name}: {}", value.to_str().expect("text")))
    };
    fields([
        ("set", list(set.iter().map(pair))),
        ("add", list(add.iter().map(pair))),
        ("remove", list(remove.iter().map(text))),
    ])
}

fn path_edit(edit: &PathEdit) -> Value {
    match edit {
        PathEdit::Full(path) => text(format!("the whole with {path:?}")),
        PathEdit::Prefix(path) => text(format!("the prefix with {path:?}")),
    }
}

fn backend(backend: &WeightedBackend) -> Value {
    let WeightedBackend {
        weight,
        backend,
        filters,
    } = backend;
    let to = match backend {
        Backend::Service(port) => format!("{weight} to {port}"),
        Backend::Invalid(reason) => format!("{weight} to nowhere, {reason}"),
    };
    match list(filters.iter().map(filter)) {
        None => text(to),
        filters => fields([("to", Some(text(to))), ("filters", filters)]),
    }
}

fn endpoint_set(set: &EndpointSet) -> Value {
    let Choice { hints, affinity } = &set.choice;
    let hinted = |of: &Endpoint| {
        let mut line = endpoint(of);
        if let Some(Hints { nodes, zones }) = hints.get(&of.address) {
            let all = [("nodes", nodes), ("zones", zones)];
            for (kind, names) in all.into_iter().filter(|(_, names)| !names.is_empty()) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                line.push_str(&format!(", for {kind} {}", names.join(" ")));
            }
        }
        text(line)
    };
    let affinity = affinity.map(|kept| text(format!("one for each client, kept {kept:?}")));
    let policy = set.traffic.as_deref().map(traffic::policy);
    let first = affinity.into_iter().chain(policy);
    let lines = first.chain(set.endpoints.iter().map(hinted));
    list(lines).unwrap_or_else(|| text("none ready"))
}

fn endpoint(endpoint: &Endpoint) -> String {
    let Endpoint { address, identity } = endpoint;
    match identity {
        Some(identity) => format!("{address} {identity}"),
        None => format!("{address} plain"),
    }
}

fn workload(mesh: &Mesh, namespace: &str, name: &str) -> Value {
    match mesh.workload(namespace, name) {
        None => text("outside the mesh"),
        Some(workload) => {
            let mode = match workload.mode {
                Mode::Permissive => "permissive",
                Mode::Strict => "strict",
            };
            let mut line = format!("{} {mode}", workload.identity);
            for (port, mode) in &workload.port_modes {
                line.push_str(&format!(", {port} {mode:?}").to_lowercase());
            }
            for probe in &workload.probes {
                let asks = match &probe.asks {
                    ProbeRequest::Get(path) => format!("GET {path}"),
                    ProbeRequest::GrpcHealth => "gRPC health".to_owned(),
                };
                line.push_str(&format!(", plain {asks} on {}", probe.port));
            }
            let Locality { node, zone } = &workload.locality;
            if !node.is_empty() {
                line.push_str(&format!(", on {node} in {zone:?}"));
            }
            if !workload.host_ips.is_empty() {
                line.push_str(&format!(", node addresses {:?}", workload.host_ips));
            }
            for (port, limit) in &workload.limits {
                let limit = traffic::limits::request_limit(limit);
                line.push_str(&format!(", {limit} on {port}"));
            }
            if let Some(gateway) = mesh.gateway_of(namespace, name) {
                line.push_str(&format!(", proxy of Gateway {gateway}"));
            }
            for port in mesh.terminating(namespace, name).into_iter().flatten() {
                line.push_str(&format!(", leaving {port}"));
            }
            text(line)
        }
    }
}

fn status(status: &RouteStatus) -> (Value, Value) {
    let RouteStatus {
        kind,
        namespace,
        name,
        generation,
        parents,
    } = status;
    let name = format!("{kind} {namespace}/{name} at {generation}");
    (
        text(name),
        list(parents.iter().map(parent)).unwrap_or(Value::Null),
    )
}

fn parent(parent: &ParentStatus) -> Value {
    let ParentStatus {
        parent_ref,
        controller,
        conditions,
    } = parent;
    let mut all = Mapping::new();
    let parent_ref = serde_json::to_string(parent_ref).expect("JSON");
    let name = match controller {
        Controller::Mesh => "parent",
        Controller::Gateway => "gateway",
    };
    all.insert(text(name), text(parent_ref));
    if let Value::Mapping(said) = self::conditions(conditions) {
        all.extend(said);
    }
    Value::Mapping(all)
}

pub(crate) fn conditions(conditions: &[Condition]) -> Value {
    let mut all = Mapping::new();
    for condition in conditions {
        let Condition {
            kind,
            status,
            reason,
            message,
        } = condition;
        let status = if *status { "True" } else { "False" };
        all.insert(text(kind), text(format!("{status} {reason}: {message}")));
    }
    Value::Mapping(all)
}

pub(crate) fn text(value: impl Display) -> Value {
    Value::String(value.to_string())
}

pub(crate) fn list(entries: impl Iterator<Item = Value>) -> Option<Value> {
    let entries: Vec<Value> = entries.collect();
    (!entries.is_empty()).then_some(Value::Sequence(entries))
}

fn some_mapping(of: Mapping) -> Option<Value> {
    (!of.is_empty()).then_some(Value::Mapping(of))
}

pub(crate) fn field(name: &str, value: Value) -> Value {
    fields([(name, Some(value))])
}

/// Absent fields are left out.
pub(crate) fn fields<'a>(fields: impl IntoIterator<Item = (&'a str, Option<Value>)>) -> Value {
    let present = fields
        .into_iter()
        .filter_map(|(name, value)| Some((text(name), value?)));
    Value::Mapping(present.collect())
}

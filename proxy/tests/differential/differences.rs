//! Differences between what was sent and what was received, other than the allowed ones.
//!
//! The allowed differences are listed in `docs/explanation/protocols.md`, "Changes to a message",
//! and nowhere else; each of its rows is implemented below.

use super::message::*;
use super::support::Version;
use super::topology::{Kind, Topology};

/// RFC 9110, 7.6.1: hop-by-hop fields. `te` is forwarded as `trailers` at most.
const OF_CONNECTION: [&str; 8] = [
    "connection",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Set by a gateway, whatever its client sends (docs/reference/gateways.md).
const OF_GATEWAY: [&str; 7] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

type Differences = Vec<String>;

fn compare<T: PartialEq + std::fmt::Debug>(what: &str, sent: T, seen: T, to: &mut Differences) {
    if sent != seen {
        let (sent, seen) = (format!("{sent:?}"), format!("{seen:?}"));
        let short = |text: String| text.chars().take(600).collect::<String>();
        to.push(format!("{what}: sent {} seen {}", short(sent), short(seen)));
    }
}

/// Sorts fields by name, as text. Lines of one name keep their order, the only one that matters
/// (RFC 9110, 5.3).
fn sorted(fields: &Fields) -> Vec<(String, String)> {
    let text =
        |(name, value): &(String, Vec<u8>)| (name.to_lowercase(), value.escape_ascii().to_string());
    let mut fields: Vec<_> = fields.iter().map(text).collect();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    fields
}

/// Removes hop-by-hop fields, including those named by `Connection`.
fn end_to_end(fields: &Fields, gateway: bool) -> Fields {
    let named: Vec<String> = values(fields, "connection")
        .flat_map(|value| value.split(|b| *b == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_lowercase())
        .collect();
    let stays = |name: &str| {
        let of_gateway = gateway && OF_GATEWAY.contains(&name);
        let named = named.iter().any(|of| of == name);
        !OF_CONNECTION.contains(&name) && !of_gateway && !named && !name.starts_with("weft-")
    };
    let fields = fields.iter().filter(|(name, _)| stays(name));
    let mut fields: Fields = fields.cloned().collect();
    // RFC 9110, 5.3: lines of a list may be joined.
    join(&mut fields, "trailer", b", ");
    fields
}

fn join(fields: &mut Fields, name: &str, between: &[u8]) {
    if values(fields, name).nth(1).is_some() {
        let lines = values(fields, name).filter(|line| !line.is_empty());
        let one = lines.collect::<Vec<_>>().join(between);
        fields.retain(|(of, _)| of != name);
        fields.push(field(name, one));
    }
}

/// RFC 9113, 8.2.3: cookie crumbs of HTTP/2 are one line in HTTP/1.1.
fn join_cookies(fields: &mut Fields) {
    join(fields, "cookie", b"; ");
}

/// RFC 9110, 8.6: a known length may be added, and a redundant one left out.
fn same_length(sent: &mut Fields, seen: &mut Fields, body: &[u8]) {
    let has_length = |fields: &Fields| values(fields, "content-length").next().is_some();
    let length = body.len().to_string();
    if has_length(sent) != has_length(seen) {
        for fields in [sent, seen] {
            let says = |(name, value): &(String, Vec<u8>)| {
                name == "content-length" && *value == length.as_bytes()
            };
            fields.retain(|field| !says(field));
        }
    }
}

/// RFC 9110, 6.5.1: trailers may be dropped, except those that `Trailer` announces.
fn announced(fields: &Fields, trailers: &Fields) -> Fields {
    let names = values(fields, "trailer").flat_map(|value| value.split(|b| *b == b','));
    let names: Vec<_> = names
        .map(|name| name.trim_ascii().to_ascii_lowercase())
        .collect();
    let is_announced = |name: &str| names.iter().any(|of| of == name.as_bytes());
    let trailers = trailers.iter().filter(|(name, _)| is_announced(name));
    trailers.cloned().collect()
}

pub fn of_request(topology: &Topology, sent: &Exchange, seen: &SeenRequest) -> Differences {
    let mut found = Vec::new();
    let gateway = topology.kind == Kind::Gateway;
    let proxied = topology.kind != Kind::Direct;
    if let Some(problem) = &seen.problem {
        found.push(format!("the application objects: {problem}"));
    }
    compare("method", &sent.method, &seen.method, &mut found);
    let (mut target, mut host) = (sent.target.as_str(), sent.host.as_str());
    if let Some(rest) = target.strip_prefix("http://").filter(|_| proxied) {
        // RFC 9112, 3.2.2: the host of the target overrides Host, and the origin server gets origin
        // form.
        let slash = rest.find('/').unwrap_or(rest.len());
        (host, target) = rest.split_at(slash);
    }
    compare("target", target, &seen.target, &mut found);
    compare("host", host, &seen.host, &mut found);
    let mut fields = end_to_end(&framed(&sent.fields, sent.framing, &sent.body), gateway);
    let mut arrived = end_to_end(&seen.fields, gateway);
    if proxied && topology.crosses_http2() {
        join_cookies(&mut fields);
        if topology.app == Version::Http2 {
            join_cookies(&mut arrived);
        }
    }
    same_length(&mut fields, &mut arrived, &sent.body);
    compare("fields", sorted(&fields), sorted(&arrived), &mut found);
    compare(
        "length of the body",
        sent.body.len(),
        seen.body.len(),
        &mut found,
    );
    if sent.body != seen.body {
        found.push("the body differs".to_owned());
    }
    let trailers = match proxied && topology.app == Version::Http1 {
        true => announced(&sent.fields, &sent.trailers),
        false => sent.trailers.clone(),
    };
    compare(
        "trailers",
        sorted(&trailers),
        sorted(&seen.trailers),
        &mut found,
    );
    found
}

pub fn of_answer(topology: &Topology, exchange: &Exchange, seen: &SeenAnswer) -> Differences {
    let mut found = Vec::new();
    let sent = &exchange.answer;
    let proxied = topology.kind != Kind::Direct;
    if proxied && sent.cut && seen.status == 502 {
        // RFC 9110, 15.6.3: the response broke off before its head could be forwarded.
        return found;
    }
    if proxied && sent.headless {
        compare("status", 502, seen.status, &mut found);
        informational(topology, exchange, seen, &mut found);
        return found;
    }
    compare("status", sent.status, seen.status, &mut found);
    let mut fields = end_to_end(&sent.all_fields(), false);
    let mut arrived = end_to_end(&seen.fields, false);
    let bodiless = exchange.method == "HEAD" || matches!(sent.status, 204 | 304);
    if !bodiless {
        same_length(&mut fields, &mut arrived, &sent.body);
    }
    if proxied && sent.status == 304 && values(&arrived, "content-length").next().is_none() {
        // RFC 9110, 15.4.5: optional, and hyper leaves it out.
        fields.retain(|(name, _)| name != "content-length");
    }
    compare("fields", sorted(&fields), sorted(&arrived), &mut found);
    compare("complete", !sent.cut, seen.whole, &mut found);
    let body: &[u8] = if bodiless { b"" } else { &sent.body };
    if sent.cut && !body.starts_with(&seen.body) || !sent.cut && body != seen.body {
        found.push(format!(
            "body: sent {} seen {} bytes",
            body.len(),
            seen.body.len()
        ));
    }
    let wants = values(&exchange.fields, "te").any(|value| value == b"trailers");
    let trailers = match topology.client {
        _ if bodiless || sent.cut => Vec::new(),
        Version::Http1 if proxied && !wants => Vec::new(),
        Version::Http1 if proxied => announced(&sent.fields, &sent.trailers),
        _ => sent.trailers.clone(),
    };
    compare(
        "trailers",
        sorted(&trailers),
        sorted(&seen.trailers),
        &mut found,
    );
    informational(topology, exchange, seen, &mut found);
    found
}

/// Informational responses arrive in order. The first to `Expect` is 100 Continue: to a client of
/// HTTP/1.1 the proxy's own, which replaces the application's (RFC 9110, 10.1.1 and 15.2).
fn informational(
    topology: &Topology,
    exchange: &Exchange,
    seen: &SeenAnswer,
    to: &mut Differences,
) {
    let mut sent = exchange.answer.informational.clone();
    if values(&exchange.fields, "expect").next().is_some() {
        let own = topology.client == Version::Http1 && topology.kind != Kind::Direct;
        if own || topology.app == Version::Http1 {
            sent.insert(0, (100, Vec::new()));
        }
    }
    let text = |of: &[(u16, Fields)]| {
        let of = of.iter();
        of.map(|(status, fields)| (*status, sorted(&end_to_end(fields, false))))
            .collect::<Vec<_>>()
    };
    compare("informational", text(&sent), text(&seen.informational), to);
}

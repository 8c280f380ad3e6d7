//! Header modifiers.

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderName, HeaderValue};
use weft_ir::HeaderEdit;

use crate::conditions::Fault;
use crate::objects::{HeaderFilter, HeaderValueSpec};
use crate::routes::values::{header_name, header_value};

/// Headers that define message framing or the use of the connection: changing them allows request
/// smuggling.
pub(crate) const FRAMING: [&str; 8] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers between proxies of the mesh, which routes must not forge.
const INTERNAL: [&str; 2] = ["weft-error", "weft-refused"];

/// Of several entries for a name in one list the first applies; a name in two lists is invalid
/// (`HTTPHeader.name` and `HTTPHeaderFilter`).
pub(super) fn header_edit(spec: &HeaderFilter, at: &str) -> Result<HeaderEdit, Fault> {
    let HeaderFilter { set, add, remove } = spec;
    let edit = HeaderEdit {
        set: header_values(set, &format!("{at}.set"))?,
        add: header_values(add, &format!("{at}.add"))?,
        remove: each_name(remove, &format!("{at}.remove"), editable)?,
    };
    only_set_host(&edit, at)?;
    let mut seen: Vec<&HeaderName> = Vec::new();
    let valued = edit.set.iter().chain(&edit.add).map(|(name, _)| name);
    for name in valued.chain(&edit.remove) {
        if seen.contains(&name) {
            let why = format_args!("{name} is in more than one of set, add and remove");
            return Err(Fault::value(at, why));
        }
        seen.push(name);
    }
    Ok(edit)
}

/// A request has exactly one Host (RFC 9112, 3.2): it can be replaced, but neither added nor
/// removed.
fn only_set_host(edit: &HeaderEdit, at: &str) -> Result<(), Fault> {
    let added = edit.add.iter().any(|(name, _)| *name == HOST);
    if added || edit.remove.contains(&HOST) {
        let list = if added { "add" } else { "remove" };
        let why = "a request has exactly one Host; set changes it";
        return Err(Fault::value(&format!("{at}.{list}"), why));
    }
    let set = edit.set.iter().find(|(name, _)| *name == HOST);
    let Some((_, value)) = set else {
        return Ok(());
    };
    let authority = Authority::try_from(value.as_bytes()).ok();
    match authority.filter(|authority| !authority.as_str().contains('@')) {
        Some(_) => Ok(()),
        None => {
            let why = format_args!("{value:?} is not a host, as example.com or example.com:8080");
            Err(Fault::value(&format!("{at}.set"), why))
        }
    }
}

fn header_values(
    entries: &[HeaderValueSpec],
    at: &str,
) -> Result<Vec<(HeaderName, HeaderValue)>, Fault> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::with_capacity(entries.len());
    for (position, HeaderValueSpec { name, value }) in entries.iter().enumerate() {
        let name = editable(name, &format!("{at}[{position}].name"))?;
        let value = header_value(value, &format!("{at}[{position}].value"))?;
        if headers.iter().all(|(earlier, _)| *earlier != name) {
            headers.push((name, value));
        }
    }
    Ok(headers)
}

/// Returns the names, each once.
pub(super) fn each_name(
    names: &[String],
    at: &str,
    read: fn(&str, &str) -> Result<HeaderName, Fault>,
) -> Result<Vec<HeaderName>, Fault> {
    let mut headers = Vec::with_capacity(names.len());
    for (position, name) in names.iter().enumerate() {
        let name = read(name, &format!("{at}[{position}]"))?;
        if !headers.contains(&name) {
            headers.push(name);
        }
    }
    Ok(headers)
}

/// Returns the name of a header that an external server may set on a request: not the host, nor
/// what proxies say of the client.
pub(super) fn copyable(name: &str, at: &str) -> Result<HeaderName, Fault> {
    let name = editable(name, at)?;
    let text = name.as_str();
    if name == HOST || text == "forwarded" || text.starts_with("x-forwarded-") {
        let why = format_args!("{name} is set by the proxy and cannot be changed by a server");
        return Err(Fault::value(at, why));
    }
    Ok(name)
}

fn editable(name: &str, at: &str) -> Result<HeaderName, Fault> {
    let name = header_name(name, at)?;
    if FRAMING.contains(&name.as_str()) {
        let why = format_args!("{name} is a connection-level header and cannot be changed");
        return Err(Fault::value(at, why));
    }
    if INTERNAL.contains(&name.as_str()) {
        let why = format_args!("{name} is reserved for the mesh and cannot be changed");
        return Err(Fault::value(at, why));
    }
    Ok(name)
}

//! The CORS filter.
//!
//! Source: `HTTPCORSFilter` and `CORSOrigin` of Gateway API v1.6.3, with their validation rules.

use http::{HeaderValue, Method};
use weft_ir::{Allowed, Cors, OriginPattern};

use crate::conditions::Fault;
use crate::objects::CorsFilter;
use crate::routes::values::{METHODS, header_name, unsupported};

/// Default of `maxAge`, in seconds.
const MAX_AGE: u32 = 5;

pub(super) fn cors(spec: &CorsFilter, at: &str) -> Result<Cors, Fault> {
    let CorsFilter {
        allow_origins,
        allow_credentials,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
    } = spec;
    let credentials = allow_credentials.unwrap_or(false);
    let expose_at = format!("{at}.exposeHeaders");
    let expose: Vec<String> = if credentials {
        // With credentials, `*` is not a wildcard and must not be sent.
        let named = expose_headers.iter().filter(|name| *name != "*");
        named.cloned().collect()
    } else if expose_headers.iter().any(|name| name == "*") {
        vec!["*".to_owned()]
    } else {
        expose_headers.clone()
    };
    let max_age = match *max_age {
        None => MAX_AGE,
        Some(seconds) => u32::try_from(seconds)
            .ok()
            .filter(|it| *it > 0)
            .ok_or_else(|| {
                let why = format_args!("{seconds} is not a positive number of seconds");
                Fault::value(&format!("{at}.maxAge"), why)
            })?,
    };
    Ok(Cors {
        origins: origins(allow_origins, &format!("{at}.allowOrigins"))?,
        credentials,
        methods: allowed(allow_methods, &format!("{at}.allowMethods"), method)?,
        headers: allowed(allow_headers, &format!("{at}.allowHeaders"), header)?,
        expose: allowed(&expose, &expose_at, header)?,
        max_age,
    })
}

fn origins(texts: &[String], at: &str) -> Result<Vec<OriginPattern>, Fault> {
    alone(texts, at)?;
    let entries = texts.iter().enumerate();
    entries
        .map(|(position, text)| {
            let parsed: Result<OriginPattern, _> = text.parse();
            parsed.map_err(|error| Fault::value(&format!("{at}[{position}]"), error))
        })
        .collect()
}

/// A wildcard must be the only value.
fn alone(texts: &[String], at: &str) -> Result<(), Fault> {
    let wild = texts.iter().any(|text| text == "*");
    if wild && texts.len() > 1 {
        return Err(Fault::value(at, "* cannot be combined with other values"));
    }
    Ok(())
}

fn allowed(
    texts: &[String],
    at: &str,
    check: fn(&str, &str) -> Result<(), Fault>,
) -> Result<Allowed, Fault> {
    alone(texts, at)?;
    if texts.is_empty() {
        return Ok(Allowed::Unsaid);
    }
    if texts[0] == "*" {
        return Ok(Allowed::Any);
    }
    for (position, text) in texts.iter().enumerate() {
        check(text, &format!("{at}[{position}]"))?;
    }
    HeaderValue::try_from(texts.join(", "))
        .map(Allowed::These)
        .map_err(|_| Fault::value(at, "is not a valid header value"))
}

fn method(name: &str, at: &str) -> Result<(), Fault> {
    if METHODS.iter().any(|method| method.as_str() == name) {
        return Ok(());
    }
    let all: Vec<&str> = METHODS.iter().map(Method::as_str).collect();
    Err(unsupported(at, name, &all.join(", ")))
}

fn header(name: &str, at: &str) -> Result<(), Fault> {
    header_name(name, at).map(|_| ())
}

//! Requests of pages of other origins: preflights are answered here, answers of applications get
//! their headers. Pure.
//!
//! Source: Gateway API v1.6.3, `HTTPCORSFilter`, and GEP-1767: where a rule has the filter no
//! preflight goes on to the application, and an origin that is not allowed gets an answer without
//! any of the headers.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName,
    HeaderValue, ORIGIN, VARY,
};
use http::{Method, StatusCode};
use weft_ir::{Allowed, Cors};

use super::response_body::{Response, ResponseBody};

/// What a request of another origin comes to.
pub enum CorsDecision {
    /// The answer of the application gets these.
    AddHeaders(Box<HeaderMap>),
    /// A preflight: this is the whole answer.
    Respond(Response),
}

/// Every answer under the filter depends on the origin, also one to a request that names none: a
/// cache must not give it to another origin (RFC 9110, 12.5.5; Fetch, 3.2.5).
const VARIES: HeaderValue = HeaderValue::from_static("Origin");

fn vary_origin() -> Box<HeaderMap> {
    Box::new(HeaderMap::from_iter([(VARY, VARIES)]))
}

pub fn evaluate(cors: &Cors, request: &http::request::Parts) -> CorsDecision {
    let Some(origin) = request.headers.get(ORIGIN) else {
        return CorsDecision::AddHeaders(vary_origin());
    };
    let allowed = origin.to_str().is_ok_and(|origin| cors.allows(origin));
    let asked = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD);
    if request.method == Method::OPTIONS && asked.is_some() {
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response.headers_mut().insert(VARY, VARIES);
        if allowed {
            let headers = response.headers_mut();
            add_origin_headers(cors, origin, headers);
            add_preflight_headers(cors, &request.headers, headers);
        }
        return CorsDecision::Respond(response);
    }
    let mut headers = vary_origin();
    if !allowed {
        return CorsDecision::AddHeaders(headers);
    }
    add_origin_headers(cors, origin, &mut headers);
    CorsDecision::AddHeaders(headers)
}

/// Puts what [`evaluate`] gave into the application's answer, in the place of what it says itself.
pub fn apply(added: &HeaderMap, answer: &mut HeaderMap) {
    for (name, value) in added {
        if *name == VARY {
            answer.append(name, value.clone());
        } else {
            answer.insert(name, value.clone());
        }
    }
}

/// The origin is always repeated, never `*`: so it is right with credentials and without.
fn add_origin_headers(cors: &Cors, origin: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if cors.credentials {
        let yes = HeaderValue::from_static("true");
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
    match &cors.expose {
        Allowed::These(names) => {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
        }
        Allowed::Any if !cors.credentials => {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
        }
        Allowed::Any | Allowed::Unsaid => {}
    }
}

fn add_preflight_headers(cors: &Cors, request: &HeaderMap, headers: &mut HeaderMap) {
    let lists: [(&Allowed, HeaderName, HeaderName); 2] = [
        (
            &cors.methods,
            ACCESS_CONTROL_REQUEST_METHOD,
            ACCESS_CONTROL_ALLOW_METHODS,
        ),
        (
            &cors.headers,
            ACCESS_CONTROL_REQUEST_HEADERS,
            ACCESS_CONTROL_ALLOW_HEADERS,
        ),
    ];
    for (list, asked, answered) in lists {
        let value = match list {
            Allowed::These(these) => Some(these),
            // What is asked for is allowed; where nothing is asked the header is left out.
            Allowed::Any => request.get(asked),
            Allowed::Unsaid => None,
        };
        if let Some(value) = value {
            headers.insert(answered, value.clone());
        }
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age));
}

//! Rows of requests and the rule that must take each.

use http::{HeaderName, Request};

use super::*;
use crate::{Pattern, RouteId, RouteKind, Timeouts, ValueMatch};

fn rule(index: u32, matches: Vec<RequestMatch>) -> Rule {
    Rule {
        route: RouteId {
            kind: RouteKind::Http,
            namespace: "shop".into(),
            name: "route".into(),
        },
        index,
        name: None,
        matches,
        filters: vec![],
        backends: vec![],
        timeouts: Timeouts::default(),
        retry: None,
        failure: None,
    }
}

fn path(path: PathMatch) -> RequestMatch {
    RequestMatch {
        path: Some(path),
        ..RequestMatch::default()
    }
}

fn exact(text: &str) -> RequestMatch {
    path(PathMatch::Exact(text.into()))
}

fn prefix(text: &str) -> RequestMatch {
    path(PathMatch::Prefix(text.into()))
}

fn regex(text: &str) -> RequestMatch {
    path(PathMatch::Regex(Pattern::new(text).unwrap()))
}

impl RequestMatch {
    fn header(mut self, name: &str, value: ValueMatch) -> Self {
        self.headers.push(HeaderMatch {
            name: HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value,
        });
        self
    }

    fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push(QueryMatch {
            name: name.into(),
            value: ValueMatch::Exact(value.into()),
        });
        self
    }

    fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }
}

fn is(value: &str) -> ValueMatch {
    ValueMatch::Exact(value.into())
}

/// The index of the rule that takes a request, written as `GET /path?query name=value name=value`.
fn taken(rules: &[RequestMatch], request: &str) -> Option<usize> {
    let table = RouteTable::new(
        rules
            .iter()
            .enumerate()
            .map(|(i, m)| rule(i as u32, vec![m.clone()]).into())
            .collect(),
    );
    let mut words = request.split(' ');
    let mut builder = Request::builder()
        .method(words.next().unwrap())
        .uri(words.next().unwrap());
    for word in words {
        let (name, value) = word.split_once('=').unwrap();
        builder = builder.header(name, value.replace('_', " "));
    }
    let request = builder.body(()).unwrap();
    table
        .find(request.method(), request.uri(), request.headers())
        .map(|found| found.index)
}

#[test]
fn conditions() {
    let cookie = ValueMatch::Regex(Pattern::new("(.*; ?)?variant=b(;.*)?").unwrap());
    for (condition, request, takes) in [
        (exact("/a"), "GET /a", true),
        (exact("/a"), "GET /a/", false),
        (exact("/a"), "GET /a?b=c", true),
        (prefix("/"), "GET /anything", true),
        (prefix("/a"), "GET /a", true),
        (prefix("/a"), "GET /a/b", true),
        (prefix("/a/"), "GET /a", true),
        (prefix("/a"), "GET /ab", false),
        (regex("/v[12]/.*"), "GET /v2/x", true),
        (regex("/v[12]"), "GET /v2/x", false),
        (
            path(PathMatch::GrpcMethod("Get".into())),
            "POST /shop.Reviews/Get",
            true,
        ),
        (
            path(PathMatch::GrpcMethod("Get".into())),
            "POST /shop.Reviews/x/Get",
            false,
        ),
        (RequestMatch::default(), "OPTIONS *", true),
        (
            prefix("/").header("x-user", is("ann")),
            "GET / x-user=ann",
            true,
        ),
        (
            prefix("/").header("x-user", is("ann")),
            "GET / X-User=ann",
            true,
        ),
        (
            prefix("/").header("x-user", is("ann")),
            "GET / x-user=Ann",
            false,
        ),
        (prefix("/").header("x-user", is("ann")), "GET /", false),
        (
            prefix("/").header("x-user", is("a,b")),
            "GET / x-user=a x-user=b",
            true,
        ),
        (
            prefix("/").header("host", is("shop")),
            "GET http://shop/",
            true,
        ),
        (
            prefix("/").header("cookie", cookie.clone()),
            "GET / cookie=a=1;_variant=b",
            true,
        ),
        (
            prefix("/").header("cookie", cookie.clone()),
            "GET / cookie=a=1 cookie=variant=b",
            true,
        ),
        (
            prefix("/").header("cookie", cookie),
            "GET / cookie=variant=bb",
            false,
        ),
        (prefix("/").query("q", "1"), "GET /?a=2&q=1", true),
        (prefix("/").query("q", "1"), "GET /?q=2&q=1", false),
        (prefix("/").query("q", "a b"), "GET /?q=a+b", true),
        (prefix("/").query("q", "a b"), "GET /?q=a%20b", true),
        (prefix("/").query("q", "%zz"), "GET /?q=%zz", true),
        (prefix("/").query("q", ""), "GET /?q", true),
        (prefix("/").method(Method::GET), "GET /", true),
        (prefix("/").method(Method::GET), "POST /", false),
    ] {
        assert_eq!(
            taken(std::slice::from_ref(&condition), request).is_some(),
            takes,
            "{condition:?} {request}"
        );
    }
}

#[test]
fn precedence() {
    let h = |m: RequestMatch, n: usize| (0..n).fold(m, |m, i| m.header(&format!("x-{i}"), is("1")));
    for (rules, request, wins) in [
        (vec![prefix("/a"), exact("/a")], "GET /a", 1),
        (vec![prefix("/a"), prefix("/a/b")], "GET /a/b", 1),
        (vec![prefix("/a/"), prefix("/a")], "GET /a", 0),
        (vec![prefix("/abc"), regex("/a.*")], "GET /abc", 1),
        (vec![regex("/a.*"), exact("/abc")], "GET /abc", 1),
        (
            vec![prefix("/a"), prefix("/a").method(Method::GET)],
            "GET /a",
            1,
        ),
        (
            vec![h(prefix("/a"), 2), prefix("/a").method(Method::GET)],
            "GET /a x-0=1 x-1=1",
            1,
        ),
        (
            vec![h(prefix("/a"), 2), prefix("/a/b")],
            "GET /a/b x-0=1 x-1=1",
            1,
        ),
        (
            vec![h(prefix("/a"), 1), h(prefix("/a"), 2)],
            "GET /a x-0=1 x-1=1",
            1,
        ),
        (
            vec![prefix("/a").query("q", "1"), h(prefix("/a"), 1)],
            "GET /a?q=1 x-0=1",
            1,
        ),
        (
            vec![prefix("/a"), prefix("/a").query("q", "1")],
            "GET /a?q=1",
            1,
        ),
        (vec![prefix("/a"), prefix("/a")], "GET /a", 0),
        (
            vec![path(PathMatch::GrpcMethod("Get".into())), prefix("/s")],
            "POST /s/Get",
            1,
        ),
        (
            vec![
                RequestMatch {
                    broken: true,
                    ..exact("/a")
                },
                prefix("/"),
            ],
            "GET /a",
            1,
        ),
    ] {
        assert_eq!(taken(&rules, request), Some(wins), "{rules:?} {request}");
    }
}

#[test]
fn nothing_matches_where_no_rule_is() {
    assert_eq!(taken(&[], "GET /"), None);
}

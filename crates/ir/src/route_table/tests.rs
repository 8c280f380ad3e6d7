//! Tables of requests and the rule that must match each.

use http::{HeaderName, Request};
use proptest::prelude::*;

use super::*;
use crate::{HeaderMatch, Pattern, QueryMatch, RouteId, RouteKind, Timeouts, ValueMatch};

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

fn table(rules: &[RequestMatch]) -> RouteTable<usize> {
    let rules = rules.iter().enumerate();
    RouteTable::new(
        rules
            .map(|(i, m)| (rule(i as u32, vec![m.clone()]).into(), i))
            .collect(),
    )
}

/// A request written as `GET /path?query name=value name=value`.
fn request(text: &str) -> Request<()> {
    let mut words = text.split(' ');
    let mut builder = Request::builder()
        .method(words.next().unwrap())
        .uri(words.next().unwrap());
    for word in words {
        let (name, value) = word.split_once('=').unwrap();
        builder = builder.header(name, value.replace('_', " "));
    }
    builder.body(()).unwrap()
}

/// The place of the rule that applies to the request, by a table of the rules alone and by one that
/// is large enough for the index.
fn found(rules: &[RequestMatch], text: &str) -> Option<usize> {
    let request = request(text);
    let find = |rules: &[RequestMatch]| {
        table(rules)
            .find(request.method(), request.uri(), request.headers())
            .map(|found| *found.payload)
    };
    let padding = std::iter::repeat_n(exact("/never/requested"), INDEXED_FROM);
    let padded: Vec<_> = rules.iter().cloned().chain(padding).collect();
    let in_order = find(rules);
    assert_eq!(in_order, find(&padded), "with the index: {rules:?} {text}");
    in_order
}

#[test]
fn conditions() {
    let cookie = ValueMatch::Regex(Pattern::new("(.*; ?)?variant=b(;.*)?").unwrap());
    for (condition, request, expected) in [
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
            found(std::slice::from_ref(&condition), request).is_some(),
            expected,
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
                    invalid: true,
                    ..exact("/a")
                },
                prefix("/"),
            ],
            "GET /a",
            1,
        ),
    ] {
        assert_eq!(found(&rules, request), Some(wins), "{rules:?} {request}");
    }
}

#[test]
fn nothing_matches_without_rules() {
    assert_eq!(found(&[], "GET /"), None);
}

#[test]
fn a_path_of_many_slashes_meets_few_prefixes() {
    let rules: Vec<_> = (0..20)
        .map(|n| prefix(&format!("/{n}")))
        .chain([prefix("/")])
        .collect();
    let path = "/".repeat(8000);
    assert_eq!(found(&rules, &format!("GET {path}")), Some(20));
    assert_eq!(found(&rules, "OPTIONS *"), None);
}

/// Paths and conditions of few words, so that they meet often.
fn path_text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", ""]), 0..4)
        .prop_map(|elements| format!("/{}", elements.join("/")))
}

fn any_match() -> impl Strategy<Value = RequestMatch> {
    let path = prop_oneof![
        path_text().prop_map(|text| Some(PathMatch::Exact(text))),
        path_text().prop_map(|text| Some(PathMatch::Prefix(text))),
        path_text().prop_map(|text| Some(PathMatch::Regex(Pattern::new(&text).unwrap()))),
        Just(Some(PathMatch::Prefix("a".into()))),
        Just(Some(PathMatch::GrpcMethod("b".into()))),
        Just(None),
    ];
    let method = prop::option::of(prop::sample::select(vec![Method::GET, Method::PUT]));
    (path, method, 0..3_usize, prop::bool::weighted(0.1)).prop_map(
        |(path, method, headers, invalid)| {
            let base = RequestMatch {
                path,
                method,
                invalid,
                ..RequestMatch::default()
            };
            (0..headers).fold(base, |of, n| of.header(&format!("x-{n}"), is("1")))
        },
    )
}

proptest! {
    /// The table finds what a walk over all matches in order of precedence finds.
    #[test]
    fn the_index_agrees_with_a_walk(
        rules in prop::collection::vec(any_match(), 0..40),
        path in path_text(),
        put in any::<bool>(),
        headers in 0..3_usize,
    ) {
        let method = if put { "PUT" } else { "GET" };
        let mut text = format!("{method} {path}");
        (0..headers).for_each(|n| text.push_str(&format!(" x-{n}=1")));
        let request = request(&text);
        let holds = |of: &&RequestMatch| {
            matches(of, request.method(), request.uri(), request.headers())
        };
        // Of equals `max_by_key` returns the last, so the walk is from the end.
        let walk = rules.iter().rev().filter(holds).max_by_key(|of| specificity(of));
        let indexed = table(&rules);
        let found = indexed.find(request.method(), request.uri(), request.headers());
        prop_assert_eq!(found.map(|found| &rules[*found.payload] as *const _), walk.map(|of| of as *const _));
    }
}

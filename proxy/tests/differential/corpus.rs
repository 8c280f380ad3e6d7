//! Exchanges that once failed, here or in other proxies, and variations of them.

use super::message::*;
use super::support::Version;

fn big(length: usize) -> Vec<u8> {
    (0..length).map(|n| b'a' + (n * 7 % 23) as u8).collect()
}

/// The exchanges for a client and an application of these versions.
pub fn exchanges(client: Version, app: Version) -> Vec<Exchange> {
    let mut all = bodies();
    all.extend(answers(client));
    all.extend(fields(client));
    all.extend(targets(client));
    all.retain(|exchange| app == Version::Http1 || !is_of_http1(&exchange.answer));
    all
}

/// Returns true if the response cannot be sent in HTTP/2.
fn is_of_http1(answer: &Answer) -> bool {
    let mut fields = answer.informational.iter().flat_map(|(_, fields)| fields);
    answer.framing == Framing::Close || fields.any(|(name, _)| name == "connection")
}

fn bodies() -> Vec<Exchange> {
    let mut all = Vec::new();
    for method in [
        "GET", "HEAD", "DELETE", "POST", "PUT", "PATCH", "OPTIONS", "REPORT", "QUERY",
    ] {
        all.push(Exchange::new(method, "/none"));
        for framing in [Framing::Length, Framing::Chunked] {
            for body in [&b""[..], b"hello", &big(70_000)] {
                all.push(Exchange::new(method, "/body").body(framing, body));
            }
        }
        let with = Exchange::new(method, "/trailers").body(Framing::Chunked, "hello");
        all.push(with.trailer("x-sum", "5"));
    }
    let mut early = Exchange::new("POST", "/early").body(Framing::Length, big(200));
    early.answer.early = true;
    all.push(early);
    all
}

fn answers(client: Version) -> Vec<Exchange> {
    let mut all = Vec::new();
    for status in [200, 201, 206, 301, 400, 404, 418, 431, 500, 502, 503, 599] {
        let answer = Answer::new(status, "why").with("x-kept", "1");
        all.push(Exchange::new("GET", "/status").answer(answer));
    }
    for framing in [Framing::Length, Framing::Chunked, Framing::Close] {
        for body in [&b""[..], b"hello", &big(70_000)] {
            let answer = Answer::new(200, body).framing(framing);
            all.push(Exchange::new("GET", "/framing").answer(answer));
        }
    }
    let trailing = Answer::new(200, "hello").framing(Framing::Chunked);
    let trailing = trailing.trailer("x-total", "5");
    let get = Exchange::new("GET", "/trailers");
    all.push(get.clone().answer(trailing.clone()));
    if client == Version::Http1 {
        let get = get.with("te", "trailers").with("connection", "te");
        all.push(get.answer(trailing));
    }
    let none = |status, length: &str| {
        let answer = Answer::new(status, "").framing(Framing::Absent);
        answer.with("content-length", length).with("etag", "\"1\"")
    };
    all.push(Exchange::new("HEAD", "/head").answer(none(200, "12345")));
    all.push(Exchange::new("HEAD", "/head").answer(none(304, "12345")));
    all.push(Exchange::new("GET", "/cached").answer(none(304, "12345")));
    let empty = Answer::new(204, "").framing(Framing::Absent);
    all.push(Exchange::new("GET", "/empty").answer(empty.clone()));
    all.push(Exchange::new("DELETE", "/empty").answer(empty));
    all.extend(informational());
    for framing in [Framing::Length, Framing::Chunked] {
        let mut cut = Answer::new(200, big(3_000)).framing(framing);
        cut.cut = true;
        all.push(Exchange::new("POST", "/cut").answer(cut));
    }
    all
}

fn informational() -> Vec<Exchange> {
    let link = || vec![field("link", "</a.css>; rel=preload")];
    let get = |answer| Exchange::new("GET", "/hints").answer(answer);
    let hints = Answer::new(200, "page").after(103, link());
    let mut all = vec![get(hints.clone())];
    all.push(get(hints.clone().after(102, Vec::new())));
    all.push(get(hints.clone().after(103, link()).after(199, link())));
    all.push(get(Answer::new(200, "page")
        .after(100, Vec::new())
        .after(103, link())));
    all.push(get(Answer::new(200, "page").after(103, many(150))));
    all.push(get(Answer::new(200, "page").after(
        103,
        vec![
            field("link", "</a>"),
            field("link", "</b>"),
            field("set-cookie", "a=1"),
            field("set-cookie", "b=2"),
            field("connection", "x-hop"),
            field("x-hop", "1"),
            field("keep-alive", "timeout=5"),
        ],
    )));
    for status in [204, 304, 404, 500, 503] {
        let answer = Answer::new(status, "");
        let answer = match status {
            204 | 304 => answer.framing(Framing::Absent),
            _ => answer,
        };
        all.push(get(answer.after(103, link())));
    }
    let none = Answer::new(200, "").framing(Framing::Absent);
    all.push(Exchange::new("HEAD", "/hints").answer(none.after(103, link())));
    let post = Exchange::new("POST", "/hints").body(Framing::Chunked, big(70_000));
    all.push(post.answer(hints.clone()));
    let mut early = Exchange::new("POST", "/hints").body(Framing::Length, big(200));
    early.answer = hints.clone();
    early.answer.early = true;
    all.push(early);
    for method in ["GET", "POST"] {
        let mut headless = Exchange::new(method, "/gone").answer(hints.clone());
        headless.answer.headless = true;
        all.push(headless);
    }
    let mut cut = hints;
    cut.body = big(3_000);
    cut.cut = true;
    all.push(get(cut));
    all
}

fn many(count: usize) -> Fields {
    (0..count)
        .map(|n| field(&format!("x-{n}"), n.to_string()))
        .collect()
}

fn fields(client: Version) -> Vec<Exchange> {
    let mut all = Vec::new();
    for count in [99, 101, 150, 1_000] {
        let mut asked = Exchange::new("GET", "/fields");
        // Requests are limited to 512 fields, including those that Weft and the client add.
        asked.fields = many(count.min(500));
        all.push(asked);
        let mut answered = Exchange::new("GET", "/fields");
        answered.answer.fields = many(count);
        all.push(answered);
    }
    let large = big(60_000);
    all.push(Exchange::new("GET", "/large").with("x-large", &large));
    all.push(Exchange::new("GET", "/large").answer(Answer::new(200, "").with("x-large", &large)));
    let cookies = Exchange::new("GET", "/cookies").with("cookie", "a=1");
    all.push(cookies.clone());
    all.push(
        cookies
            .with("x-between", "1")
            .with("cookie", "b=2")
            .with("cookie", "c=3"),
    );
    let odd = [
        &b""[..],
        b"a",
        b"",
        b"\xff\xfe",
        b"tab\there",
        b"\"quoted, comma\"",
        b"a;b=c",
    ];
    let mut repeated = Exchange::new("GET", "/repeated");
    for value in odd {
        repeated = repeated.with("x-same", value);
        repeated.answer = repeated
            .answer
            .with("set-cookie", value)
            .with("x-same", value);
    }
    all.push(repeated);
    let odd = Exchange::new("GET", "/names")
        .with("x_under", "1")
        .with("x!#$%&'*+-.^_`|~", "1");
    all.push(odd);
    for kind in [
        "application/grpc-web",
        "application/grpcx",
        "application/grpc-web+proto",
    ] {
        all.push(
            Exchange::new("POST", "/kind")
                .with("content-type", kind)
                .body(Framing::Length, "x"),
        );
    }
    let mut names = Exchange::new("POST", "/usual").body(Framing::Length, "{}");
    for (name, value) in [
        ("accept-encoding", "gzip, br"),
        ("authorization", "Basic YTpi"),
        ("content-encoding", "gzip"),
        ("expires", "0"),
        ("if-none-match", "W/\"1\""),
        ("max-forwards", "3"),
        ("range", "bytes=0-4"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("user-agent", "a (b) c/1"),
        ("via", "1.1 someone"),
    ] {
        names = names.with(name, value);
    }
    all.push(names);
    let expects = Exchange::new("POST", "/expects").with("expect", "100-continue");
    let expects = expects.body(Framing::Length, "hello");
    all.push(expects.clone());
    let hints = Answer::new(200, "ok").after(103, many(2));
    all.push(expects.answer(hints));
    if client == Version::Http1 {
        let hops = Exchange::new("GET", "/hops").with("connection", "x-mine, keep-alive");
        all.push(hops.with("x-mine", "1").with("keep-alive", "timeout=5"));
        let ignored = Exchange::new("GET", "/upgrade").with("connection", "upgrade");
        all.push(ignored.with("upgrade", "websocket"));
    }
    all
}

fn targets(client: Version) -> Vec<Exchange> {
    let mut all = Vec::new();
    for target in [
        "/",
        "/?",
        "/?a=b&c",
        "//double//",
        "/./a/../b",
        "/%61%2F%00%zz%",
        "/;v=1,2:@!$&'()*+=~",
        "/a|b^c{d}[e]\\f",
        "/?a|b^c`d{e}[f]\\g",
        "/\u{e9}?\u{e9}",
        "/\"quoted\"",
    ] {
        all.push(Exchange::new("GET", target));
    }
    all.push(Exchange::new("GET", &format!("/{}", "long/".repeat(2_000))));
    if client == Version::Http1 {
        all.push(Exchange::new("OPTIONS", "*"));
    }
    for host in ["a.example.com:8080", "[::1]:80", "UPPER.example"] {
        let mut named = Exchange::new("GET", "/host");
        named.host = host.to_owned();
        all.push(named);
    }
    all
}

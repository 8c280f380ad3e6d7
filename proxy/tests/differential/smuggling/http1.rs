//! Ambiguous HTTP/1.1 requests.

use super::*;

/// The expected outcome of a case.
#[derive(Clone, Copy, Debug)]
pub enum Made {
    /// Refused with this status; the application receives nothing.
    Refused(u16),
    /// The application receives one request for `/asked`.
    Passed,
}

use Made::{Passed, Refused};

/// Requests after the Host line; each has a body that a lenient parser takes for a request.
pub const REQUESTS: [(&str, &str, Made); 34] = [
    (
        "two differing lengths",
        "content-length: 0\r\ncontent-length: 33\r\n\r\n@",
        Refused(400),
    ),
    (
        "two equal lengths",
        "content-length: 33\r\ncontent-length: 33\r\n\r\n@",
        Passed,
    ),
    (
        "a list of lengths",
        "content-length: 33, 33\r\n\r\n@",
        Refused(400),
    ),
    (
        "a length with a sign",
        "content-length: +33\r\n\r\n@",
        Refused(400),
    ),
    (
        "a negative length",
        "content-length: -1\r\n\r\n@",
        Refused(400),
    ),
    (
        "a length of hexadecimal digits",
        "content-length: 0x21\r\n\r\n@",
        Refused(400),
    ),
    ("an empty length", "content-length: \r\n\r\n@", Refused(400)),
    (
        "a length beyond 64 bits",
        "content-length: 99999999999999999999\r\n\r\n@",
        Refused(400),
    ),
    (
        "length, then chunked",
        "content-length: 38\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n@",
        Passed,
    ),
    (
        "chunked, then length",
        "transfer-encoding: chunked\r\ncontent-length: 38\r\n\r\n0\r\n\r\n@",
        Passed,
    ),
    (
        "chunked in capitals",
        "Transfer-Encoding: CHUNKED\r\ncontent-length: 38\r\n\r\n0\r\n\r\n@",
        Passed,
    ),
    (
        "chunked after a tab",
        "transfer-encoding:\tchunked\r\ncontent-length: 38\r\n\r\n0\r\n\r\n@",
        Passed,
    ),
    (
        "identity",
        "transfer-encoding: identity\r\ncontent-length: 33\r\n\r\n@",
        Refused(400),
    ),
    (
        "identity, chunked",
        "transfer-encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        Refused(501),
    ),
    (
        "chunked, identity",
        "transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "chunked twice",
        "transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "chunked on two lines",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "chunked, then another line",
        "transfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "xchunked",
        "transfer-encoding: xchunked\r\ncontent-length: 33\r\n\r\n@",
        Refused(400),
    ),
    (
        "chunked in quotes",
        "transfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "chunked with a parameter",
        "transfer-encoding: chunked;a=b\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "gzip, chunked",
        "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        Refused(501),
    ),
    (
        "an empty coding",
        "transfer-encoding: \r\ncontent-length: 33\r\n\r\n@",
        Refused(400),
    ),
    (
        "a coding that is no text",
        "transfer-encoding: chunked\u{b}\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "a folded line",
        "transfer-encoding:\r\n chunked\r\ncontent-length: 33\r\n\r\n@",
        Refused(400),
    ),
    (
        "a folded field",
        "x-a: 1\r\n 2\r\ncontent-length: 33\r\n\r\n@",
        Refused(400),
    ),
    (
        "a blank before the colon",
        "content-length : 33\r\n\r\n@",
        Refused(400),
    ),
    (
        "a tab before the colon",
        "transfer-encoding\t: chunked\r\n\r\n0\r\n\r\n",
        Refused(400),
    ),
    (
        "a lone CR in a value",
        "x-a: 1\rcontent-length: 0\r\ncontent-length: 33\r\n\r\n@",
        Refused(400),
    ),
    (
        "NUL in a value",
        "x-a: 1\0\r\ncontent-length: 33\r\n\r\n@",
        Refused(400),
    ),
    (
        "a field without a name",
        ": 1\r\ncontent-length: 33\r\n\r\n@",
        Refused(400),
    ),
    (
        "a name that Connection takes off: length",
        "connection: content-length\r\ncontent-length: 33\r\n\r\n@",
        Passed,
    ),
    (
        "a name that Connection takes off: coding",
        "connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n\r\n21\r\n@\r\n0\r\n\r\n",
        Passed,
    ),
    (
        "a name that Connection takes off: host",
        "connection: host\r\ncontent-length: 33\r\n\r\n@",
        Passed,
    ),
];

pub fn bytes(rest: &str) -> Vec<u8> {
    let rest = rest.replace('@', HIDDEN);
    format!("POST /asked HTTP/1.1\r\nhost: reviews\r\n{rest}").into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_http1_requests_are_refused_or_normalized() {
    let mut wrong = Vec::new();
    for kind in PROXIES {
        let (app, heads) = application(OK).await;
        let front = Front::start(kind, Version::Http1, Version::Http1, app);
        for (name, rest, made) in REQUESTS {
            let said = answers(front.address, &bytes(rest)).await;
            let seen = std::mem::take(&mut *heads.lock().unwrap());
            let expected: &[&str] = match made {
                Passed => &["POST /asked HTTP/1.1"],
                Refused(_) => &[],
            };
            let status = match made {
                Passed => 200,
                Refused(status) => status,
            };
            let has_status = said.starts_with(&format!("HTTP/1.1 {status} "));
            // Where hyper sends no response, the connection just closes.
            let is_closed = said.is_empty() && status == 400;
            if seen != expected
                || !(has_status || is_closed)
                || said.matches("HTTP/1.1 ").count() > 1
            {
                wrong.push(format!(
                    "{kind:?}, {name} ({made:?}): app {seen:?}, client {said:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Complete messages that are not valid HTTP/1.1 requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_http1_requests_are_refused() {
    let mut wrong = Vec::new();
    for kind in PROXIES {
        let (app, heads) = application(OK).await;
        let front = Front::start(kind, Version::Http1, Version::Http1, app);
        for bytes in [
            &b"POST /asked HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"[..],
            b"GET /asked\x01 HTTP/1.1\r\nhost: a\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
            b"GET /a HTTP/1.1 HTTP/1.1\r\nhost: a\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nhost: a\r\nconnection: \xff, close\r\n\r\n",
            b"GET /asked HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c, \xff\r\n\r\n",
            b"POST /asked HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
            b"POST /asked HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n\r\n",
        ] {
            let said = answers(front.address, bytes).await;
            let seen = std::mem::take(&mut *heads.lock().unwrap());
            let whole = seen.iter().any(|line| !line.starts_with("bad: "));
            if whole || said.contains("x-app") {
                wrong.push(format!(
                    "{kind:?} {:?}: {seen:?} {said:?}",
                    bytes.escape_ascii().to_string()
                ));
            }
        }
        // Unambiguous, and forwarded normalized: lines that end with a bare LF, and chunk
        // extensions.
        for bytes in [
            &b"POST /asked HTTP/1.1\nhost: a\ncontent-length: 2\n\nhi"[..],
            b"POST /asked HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2;a=b;c=\"d\"\r\nhi\r\n0\r\n\r\n",
        ] {
            let said = answers(front.address, bytes).await;
            let mut seen = std::mem::take(&mut *heads.lock().unwrap());
            // A request cut off earlier may be recorded late.
            seen.retain(|line| line != "bad: unexpected end of file");
            if seen != ["POST /asked HTTP/1.1"] || !said.contains("x-app") {
                wrong.push(format!("{kind:?} {:?}: {seen:?} {said:?}", bytes.escape_ascii().to_string()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// hyper responds to these itself, before there is a request to count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unparsable_requests_are_counted() {
    let (app, heads) = application(OK).await;
    for kind in [Kind::Outbound, Kind::Inbound, Kind::Gateway] {
        let front = Front::start(kind, Version::Http1, Version::Http1, app);
        let large = format!(
            "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
            "x".repeat(70_000)
        );
        let cases = [
            ("GET /?a=\"b\" HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
            ("GET /<a> HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
            (large.as_str(), "431"),
        ];
        for (counted, (bytes, status)) in (1..).zip(cases) {
            let said = answers(front.address, bytes.as_bytes()).await;
            let has_details = kind == Kind::Gateway || said.contains("\r\nweft-error: ");
            assert!(
                has_details && said.starts_with(&format!("HTTP/1.1 {status} ")),
                "{kind:?} {said:?}"
            );
            let name = format!("{kind:?}").to_lowercase();
            let line = format!(
                r#"weft_protocol_errors_total{{listener="{name}",error_type="bad_request"}} {counted}"#
            );
            let begun = std::time::Instant::now();
            while !front.metrics().lines().any(|seen| seen == line) {
                assert!(begun.elapsed() < LIMIT, "{line}: {}", front.metrics());
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
    assert_eq!(*heads.lock().unwrap(), [""; 0]);
}

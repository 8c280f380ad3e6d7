//! Ambiguous HTTP/1.1 responses.

use super::*;

/// Response heads, and the number of `content-length` fields that clients get; `None`: 502.
const ANSWERS: [(&str, &[u8], Option<usize>); 11] = [
    (
        "two equal lengths",
        b"content-length: 2\r\ncontent-length: 2\r\n\r\nok",
        Some(1),
    ),
    (
        "a list of equal lengths",
        b"content-length: 2, 2\r\n\r\nok",
        Some(1),
    ),
    (
        "two differing lengths",
        b"content-length: 2\r\ncontent-length: 3\r\n\r\nok!",
        None,
    ),
    (
        "a list of differing lengths",
        b"content-length: 2, 3\r\n\r\nok!",
        None,
    ),
    (
        "a length with a sign",
        b"content-length: +2\r\n\r\nok",
        None,
    ),
    (
        "length beside chunked",
        b"content-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Some(0),
    ),
    (
        "gzip, chunked",
        b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        None,
    ),
    (
        "gzip",
        b"transfer-encoding: gzip\r\nconnection: close\r\n\r\nok",
        None,
    ),
    (
        "chunked twice",
        b"transfer-encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        None,
    ),
    (
        "a blank before the colon",
        b"content-length : 2\r\n\r\nok",
        Some(1),
    ),
    (
        "Connection that is no text",
        b"connection: \xff\r\ncontent-length: 2\r\n\r\nok",
        None,
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_http1_responses_are_refused_or_normalized() {
    let mut wrong = Vec::new();
    for (name, rest, expected) in ANSWERS {
        let answer = [b"HTTP/1.1 200 OK\r\n", rest].concat().leak();
        let (app, _) = application(answer).await;
        for kind in PROXIES {
            let front = Front::start(kind, Version::Http1, Version::Http1, app);
            let ask = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            let said = answers(front.address, ask).await;
            let lengths = said.to_lowercase().matches("content-length: 2\r\n").count();
            let right = match expected {
                Some(count) => {
                    said.starts_with("HTTP/1.1 200") && lengths == count && said.contains("ok")
                }
                None => said.starts_with("HTTP/1.1 502"),
            };
            if !right {
                wrong.push(format!("{kind:?}, {name}: {said:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

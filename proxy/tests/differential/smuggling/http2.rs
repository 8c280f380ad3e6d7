//! Ambiguous HTTP/2 requests, frame by frame.

use super::*;

/// A literal HPACK field without indexing (RFC 7541, 6.2.2); names and values may be any bytes.
fn literal(name: &[u8], value: &[u8], block: &mut Vec<u8>) {
    block.push(0);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).unwrap());
        block.extend_from_slice(text);
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(&[
        0,
        0,
        u8::try_from(payload.len()).unwrap(),
        kind,
        flags,
        0,
        0,
        0,
        stream,
    ]);
    to.extend_from_slice(payload);
}

type Pairs = &'static [(&'static [u8], &'static [u8])];

/// Fields besides `:method`, `:scheme` and `:authority`; whether the application receives the
/// request.
const FRAMES: [(&str, Pairs, bool); 17] = [
    (
        "two differing lengths",
        &[
            (b":path", b"/asked"),
            (b"content-length", b"33"),
            (b"content-length", b"0"),
        ],
        false,
    ),
    (
        "two equal lengths",
        &[
            (b":path", b"/asked"),
            (b"content-length", b"33"),
            (b"content-length", b"33"),
        ],
        true,
    ),
    (
        "a list of lengths",
        &[(b":path", b"/asked"), (b"content-length", b"33, 33")],
        false,
    ),
    (
        "a length with a sign",
        &[(b":path", b"/asked"), (b"content-length", b"+33")],
        false,
    ),
    (
        "another length than the body's",
        &[(b":path", b"/asked"), (b"content-length", b"3")],
        false,
    ),
    (
        "transfer-encoding",
        &[(b":path", b"/asked"), (b"transfer-encoding", b"chunked")],
        false,
    ),
    (
        "connection",
        &[(b":path", b"/asked"), (b"connection", b"content-length")],
        false,
    ),
    (
        "a path with a blank",
        &[(b":path", b"/asked HTTP/1.1\r\nx: y")],
        false,
    ),
    (
        "a path with CR",
        &[(b":path", b"/asked\r\n\r\nGET /smuggled HTTP/1.1\r\n")],
        false,
    ),
    (
        "a value with LF",
        &[(b":path", b"/asked"), (b"x-a", b"1\r\ncontent-length: 0")],
        false,
    ),
    (
        "a value with NUL",
        &[(b":path", b"/asked"), (b"x-a", b"1\0")],
        false,
    ),
    (
        "a name with a colon",
        &[(b":path", b"/asked"), (b"x-a: 1\r\nx-b", b"1")],
        false,
    ),
    (
        "a name with capitals",
        &[(b":path", b"/asked"), (b"Content-Length", b"33")],
        false,
    ),
    (
        "a name with a blank",
        &[(b":path", b"/asked"), (b"content-length ", b"0")],
        false,
    ),
    (
        "two paths",
        &[(b":path", b"/asked"), (b":path", b"/smuggled")],
        false,
    ),
    (
        "a pseudo-field after others",
        &[(b"x-a", b"1"), (b":path", b"/asked")],
        false,
    ),
    (
        "two hosts",
        &[(b":path", b"/asked"), (b"host", b"a"), (b"host", b"b")],
        false,
    ),
];

fn frames(fields: Pairs) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(4, 0, 0, b"", &mut bytes);
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "reviews"),
    ] {
        literal(name.as_bytes(), value.as_bytes(), &mut block);
    }
    for (name, value) in fields {
        literal(name, value, &mut block);
    }
    frame(1, 4, 1, &block, &mut bytes);
    frame(0, 1, 1, HIDDEN.as_bytes(), &mut bytes);
    bytes
}

/// Returns the type of the first frame on stream 1, or GOAWAY.
async fn first_frame(front: SocketAddr, bytes: &[u8]) -> Option<u8> {
    let mut stream = TcpStream::connect(front).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let read = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.ok()?;
            if head[8] == 1 || head[3] == 7 {
                return Some(head[3]);
            }
        }
    };
    timeout(LIMIT, read).await.expect("a frame or a close")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_http2_requests_are_refused_or_normalized() {
    let mut wrong = Vec::new();
    // The application speaks HTTP/1.1, so the proxy translates what it forwards.
    let (app, heads) = application(OK).await;
    let front = Front::start(Kind::Gateway, Version::Http2, Version::Http1, app);
    for (name, fields, passed) in FRAMES {
        let answered = first_frame(front.address, &frames(fields)).await;
        let seen = std::mem::take(&mut *heads.lock().unwrap());
        let right = match passed {
            true => seen == ["POST /asked HTTP/1.1"] && answered == Some(1),
            false => seen
                .iter()
                .all(|line| line.starts_with("bad: unexpected end")),
        };
        if !right {
            wrong.push(format!("{name}: {seen:?}, frame {answered:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

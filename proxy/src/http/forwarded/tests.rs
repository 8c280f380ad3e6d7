use super::*;

const ID: &str = "made-here";

fn connection(client: &str, tls: bool) -> Connection {
    Connection {
        client: client.parse().unwrap(),
        tls,
        port: if tls { 8443 } else { 8080 },
    }
}

type Headers<'a> = &'a [(&'static str, &'a str)];

fn trust(hops: u32, header: ForwardedHeader) -> ForwardedTrust {
    ForwardedTrust {
        hops,
        header,
        proxies: Vec::new(),
    }
}

/// Handles a request for `shop.example` with these headers; returns the client's address and the
/// resulting headers.
fn after(headers: Headers<'_>, hops: u32, connection: Connection) -> (String, HeaderMap) {
    let trust = trust(hops, ForwardedHeader::XForwardedFor);
    after_trusting(headers, &trust, connection)
}

fn after_trusting(
    headers: Headers<'_>,
    trust: &ForwardedTrust,
    connection: Connection,
) -> (String, HeaderMap) {
    let mut request = http::Request::builder()
        .uri("/")
        .header("host", "shop.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut head = request.body(()).unwrap().into_parts().0;
    let client = set(&mut head, connection, trust, || {
        HeaderValue::from_static(ID)
    });
    (client.to_string(), head.headers)
}

fn one<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let mut all = headers.get_all(name).iter();
    let first = all.next().map_or("", |value| value.to_str().unwrap());
    assert!(all.next().is_none(), "{name} is repeated");
    first
}

const SPOOFED_HEADERS: [(&str, &str); 11] = [
    ("x-forwarded-for", "6.6.6.6, 7.7.7.7"),
    ("x-forwarded-for", "8.8.8.8"),
    ("x_forwarded_for", "6.6.6.6"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-port", "666"),
    ("x-forwarded-client-cert", "By=spiffe://evil"),
    ("forwarded", "for=6.6.6.6;proto=https;host=evil.example"),
    ("x-real-ip", "6.6.6.6"),
    ("x-request-id", "chosen"),
    ("x_request_id", "chosen"),
];

#[test]
fn forwarded_headers_of_untrusted_client_are_removed() {
    let (client, headers) = after(&SPOOFED_HEADERS, 0, connection("192.0.2.7:4711", false));
    assert_eq!(client, "192.0.2.7");
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-port", "8080"),
        (
            "forwarded",
            "for=192.0.2.7;host=\"shop.example\";proto=http",
        ),
        ("x-real-ip", "192.0.2.7"),
        ("x-request-id", ID),
    ] {
        assert_eq!(one(&headers, name), value, "{name}");
    }
    assert_eq!(headers.len(), 8, "with Host: {headers:?}");
}

#[test]
fn client_address_is_counted_from_the_right_by_trusted_hops() {
    let list = "6.6.6.6, 10.0.0.1, [2001:db8::2]:80";
    for (hops, client, list_after) in [
        (0, "192.0.2.7", "192.0.2.7"),
        (1, "2001:db8::2", "2001:db8::2, 192.0.2.7"),
        (2, "10.0.0.1", "10.0.0.1, 2001:db8::2, 192.0.2.7"),
        (3, "6.6.6.6", "6.6.6.6, 10.0.0.1, 2001:db8::2, 192.0.2.7"),
        // Fewer hops than are trusted: the client bypassed one of them.
        (4, "192.0.2.7", "192.0.2.7"),
        (u32::MAX, "192.0.2.7", "192.0.2.7"),
    ] {
        let spoof = [("x-forwarded-for", list), ("x-request-id", "theirs")];
        let (found, headers) = after(&spoof, hops, connection("[::ffff:192.0.2.7]:1", true));
        assert_eq!(
            (&*found, one(&headers, "x-forwarded-for")),
            (client, list_after),
            "{hops}"
        );
        let is_trusted = (1..4).contains(&hops);
        let id = if is_trusted { "theirs" } else { ID };
        assert_eq!(one(&headers, "x-request-id"), id, "{hops}");
    }
}

#[test]
fn invalid_forwarded_address_is_ignored() {
    for list in [
        "unknown",
        "_hidden",
        "6.6.6.6, ",
        "1.2.3.4.5",
        "6.6.6.6:99999",
        "\u{e9}",
        "evil\t",
    ] {
        let (client, headers) = after(
            &[("x-forwarded-for", list)],
            1,
            connection("192.0.2.7:1", false),
        );
        assert_eq!(client, "192.0.2.7", "{list}");
        assert_eq!(one(&headers, "x-forwarded-for"), "192.0.2.7", "{list}");
    }
}

#[test]
fn trusted_hop_sets_scheme_host_and_port() {
    // Headers of the hop besides the client's address; the resulting scheme, host and port.
    let rows: [(Headers<'_>, [&str; 3]); 7] = [
        (&[], ["http", "shop.example", "8080"]),
        (
            &[("x-forwarded-proto", "HTTPS")],
            ["https", "shop.example", "443"],
        ),
        (
            &[("x-forwarded-proto", "gopher")],
            ["http", "shop.example", "8080"],
        ),
        // The entry on the left is the client's own.
        (
            &[("x-forwarded-proto", "https, http")],
            ["http", "shop.example", "80"],
        ),
        (
            &[
                ("x-forwarded-host", "a.example"),
                ("x-forwarded-port", "444"),
            ],
            ["http", "a.example", "444"],
        ),
        (
            &[
                ("x-forwarded-host", "evil.example"),
                ("x-forwarded-host", "a.example"),
            ],
            ["http", "a.example", "8080"],
        ),
        (
            &[("x-forwarded-port", "70000")],
            ["http", "shop.example", "8080"],
        ),
    ];
    for (from_hop, [proto, host, port]) in rows {
        let mut headers = vec![
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-prefix", "/shop"),
        ];
        headers.extend_from_slice(from_hop);
        let (_, headers) = after(&headers, 1, connection("192.0.2.7:1", false));
        assert_eq!(one(&headers, "x-forwarded-proto"), proto, "{from_hop:?}");
        assert_eq!(one(&headers, "x-forwarded-host"), host, "{from_hop:?}");
        assert_eq!(one(&headers, "x-forwarded-port"), port, "{from_hop:?}");
        // Unknown whether the hop or its client wrote it.
        assert!(!headers.contains_key("x-forwarded-prefix"));
    }
}

#[test]
fn trusted_forwarded_is_parsed_and_both_headers_are_written() {
    let text =
        r#"for=6.6.6.6, For="[2001:db8::1]:4711";Proto=https;host="a,b;\"c";by=_x, for=10.0.0.2"#;
    let trusted = trust(2, ForwardedHeader::Forwarded);
    let peer = connection("192.0.2.7:1", false);
    let (client, headers) = after_trusting(&[("forwarded", text)], &trusted, peer);
    assert_eq!(client, "2001:db8::1");
    assert_eq!(
        one(&headers, "x-forwarded-for"),
        "2001:db8::1, 10.0.0.2, 192.0.2.7"
    );
    assert_eq!(one(&headers, "x-forwarded-proto"), "https");
    assert_eq!(one(&headers, "x-forwarded-port"), "443");
    assert_eq!(one(&headers, "x-forwarded-host"), "a,b;\"c");
    let written = r#"for="[2001:db8::1]";host="a,b;\"c";proto=https, for=10.0.0.2, for=192.0.2.7;host="shop.example";proto=http"#;
    assert_eq!(one(&headers, "forwarded"), written);
}

#[test]
fn header_not_written_by_trusted_hops_is_ignored() {
    let both = [
        ("forwarded", "for=10.0.0.1"),
        ("x-forwarded-for", "10.0.0.9"),
    ];
    for (header, of_both, of_the_other) in [
        (ForwardedHeader::XForwardedFor, "10.0.0.9", &both[..1]),
        (ForwardedHeader::Forwarded, "10.0.0.1", &both[1..]),
    ] {
        let peer = connection("192.0.2.7:1", false);
        let trusted = trust(1, header);
        assert_eq!(after_trusting(&both, &trusted, peer).0, of_both);
        assert_eq!(after_trusting(of_the_other, &trusted, peer).0, "192.0.2.7");
    }
}

#[test]
fn hop_is_trusted_only_from_proxy_ranges() {
    let trusted = ForwardedTrust {
        proxies: vec![
            "192.0.2.0/24".parse().unwrap(),
            "2001:db8::1/128".parse().unwrap(),
        ],
        ..trust(1, ForwardedHeader::XForwardedFor)
    };
    let forwarded = [("x-forwarded-for", "10.0.0.1")];
    for (peer, client) in [
        ("192.0.2.7:1", "10.0.0.1"),
        ("[::ffff:192.0.2.7]:1", "10.0.0.1"),
        ("[2001:db8::1]:1", "10.0.0.1"),
        ("198.51.100.7:1", "198.51.100.7"),
        ("[2001:db8::2]:1", "2001:db8::2"),
    ] {
        assert_eq!(
            after_trusting(&forwarded, &trusted, connection(peer, true)).0,
            client
        );
    }
}

#[test]
fn invalid_request_id_is_replaced_with_uuid() {
    let long = "a".repeat(MAX_REQUEST_ID + 1);
    for (id, is_kept) in [
        ("abc-1", true),
        (&*long, false),
        ("a b", false),
        ("", false),
    ] {
        let headers = [("x-forwarded-for", "10.0.0.1"), ("x-request-id", id)];
        let (_, headers) = after(&headers, 1, connection("192.0.2.7:1", false));
        assert_eq!(one(&headers, "x-request-id"), if is_kept { id } else { ID });
    }
    let full = uuid([0xff; 16]);
    assert_eq!(full, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
    assert_ne!(new_request_id(), new_request_id());
}

#[test]
fn forwarded_host_is_taken_from_absolute_target() {
    let mut head = http::Request::builder()
        .uri("http://a.example:8080/")
        .body(())
        .unwrap()
        .into_parts()
        .0;
    set(
        &mut head,
        connection("192.0.2.7:1", true),
        &ForwardedTrust::default(),
        new_request_id,
    );
    assert_eq!(one(&head.headers, "x-forwarded-host"), "a.example:8080");
    assert_eq!(one(&head.headers, "x-forwarded-proto"), "https");
}

proptest::proptest! {
    /// Only trusted hops determine the client's address: whatever is to the left of its entry, on
    /// the same line or another, even with unbalanced quotes, is ignored.
    #[test]
    fn entries_left_of_trusted_hops_are_ignored(
        spoof in "[ -~]{0,64}",
        hops in 1_u32..4,
        own_line: bool,
    ) {
        for (name, item, header) in [
            ("x-forwarded-for", "10.0.0.", ForwardedHeader::XForwardedFor),
            ("forwarded", "for=10.0.0.", ForwardedHeader::Forwarded),
        ] {
            let trusted = trust(hops, header);
            let trusted_entries: Vec<String> = (0..hops).map(|hop| format!("{item}{hop}")).collect();
            let trusted_entries = trusted_entries.join(", ");
            let line = format!("{spoof}, {trusted_entries}");
            let both = [(name, &*spoof), (name, &*trusted_entries)];
            let headers = if own_line { &both[..] } else { &[(name, &*line)] };
            let (client, headers) = after_trusting(headers, &trusted, connection("192.0.2.7:1", false));
            proptest::prop_assert_eq!(client, "10.0.0.0");
            let addresses: Vec<String> = (0..hops).map(|hop| format!("10.0.0.{hop}")).collect();
            let list = format!("{}, 192.0.2.7", addresses.join(", "));
            proptest::prop_assert_eq!(one(&headers, "x-forwarded-for"), &*list);
        }
    }
}

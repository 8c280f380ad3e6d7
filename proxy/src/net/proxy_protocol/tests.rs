use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::listen::ConnectionError;

fn version_2(command: u8, family: u8, addresses: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = SIGNATURE_2.to_vec();
    bytes.extend([0x20 | command, family]);
    bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
    bytes.extend(addresses);
    bytes.resize(FIXED_2 + length, 0xee);
    bytes
}

fn addresses_2(source: SocketAddr) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    let family = match source.ip() {
        IpAddr::V4(ip) => {
            bytes.extend(ip.octets());
            bytes.extend([192, 0, 2, 99]);
            0x11
        }
        IpAddr::V6(ip) => {
            bytes.extend(ip.octets());
            bytes.extend([9; 16]);
            0x21
        }
    };
    bytes.extend(source.port().to_be_bytes());
    bytes.extend(443_u16.to_be_bytes());
    (family, bytes)
}

fn line(source: SocketAddr) -> Vec<u8> {
    let (family, other) = match source {
        SocketAddr::V4(_) => ("TCP4", "192.0.2.99"),
        SocketAddr::V6(_) => ("TCP6", "2001:db8::99"),
    };
    let (ip, port) = (source.ip(), source.port());
    format!("PROXY {family} {ip} {other} {port} 443\r\n").into_bytes()
}

#[test]
fn version_1_headers_are_parsed() {
    let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
    let source = Some("192.0.2.1:4711".parse().unwrap());
    for (text, expected) in [
        ("PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n", Ok(source)),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n", Ok(source)),
        ("PROXY UNKNOWN\r\n", Ok(None)),
        (longest, Ok(None)),
        ("PROXY UNKNOWNS\r\n", Err("number of fields")),
        (
            "PROXY TCP4 192.0.2.1 192.0.2.2 4711\r\n",
            Err("number of fields"),
        ),
        (
            "PROXY TCP4  192.0.2.1 192.0.2.2 4711 443\r\n",
            Err("number of fields"),
        ),
        ("PROXY TCP4 ::1 ::1 4711 443\r\n", Err("address")),
        ("PROXY TCP6 192.0.2.1 ::1 4711 443\r\n", Err("address")),
        (
            "PROXY TCP4 192.0.02.1 192.0.2.2 4711 443\r\n",
            Err("address"),
        ),
        (
            "PROXY TCP5 192.0.2.1 192.0.2.2 4711 443\r\n",
            Err("address"),
        ),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n", Err("port")),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 4711 0443\r\n", Err("port")),
        ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n", Err("port")),
    ] {
        let length = text.len();
        let expected = expected.map(|source| Progress::Whole(Header { length, source }));
        assert_eq!(
            parse(text.as_bytes()),
            expected.map_err(HeaderError::Malformed),
            "{text}"
        );
    }
    let endless = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
    assert_eq!(parse(&endless[..MAX_LINE - 1]), Ok(Progress::More));
    assert_eq!(parse(&endless), Err(HeaderError::TooLong(MAX_LINE)));
}

#[test]
fn version_2_commands_and_families_are_parsed() {
    let client: SocketAddr = "192.0.2.1:4711".parse().unwrap();
    let (_, v4) = addresses_2(client);
    for (command, family, length, expected) in [
        (1, 0x11, 12, Ok(Some(client))),
        (1, 0x11, 200, Ok(Some(client))),
        // LOCAL: the load balancer's own health check, whatever addresses it has.
        (0, 0x11, 12, Ok(None)),
        (0, 0x77, 12, Ok(None)),
        (1, 0x00, 12, Ok(None)),
        (1, 0x12, 12, Ok(None)),
        (1, 0x31, 216, Ok(None)),
        (1, 0x13, 12, Err("address family")),
        (1, 0x41, 12, Err("address family")),
        (2, 0x11, 12, Err("version or command")),
        (0x11, 0x11, 12, Err("version or command")),
    ] {
        let bytes = version_2(command, family, &v4, length);
        let length = bytes.len();
        let expected = expected.map(|source| Progress::Whole(Header { length, source }));
        assert_eq!(
            parse(&bytes),
            expected.map_err(HeaderError::Malformed),
            "{bytes:?}"
        );
    }
    let short = version_2(1, 0x21, &v4, 12);
    assert_eq!(parse(&short), Err(HeaderError::Malformed("length")));
    let long = version_2(1, 0x11, &v4, MAX_2);
    assert_eq!(parse(&long[..FIXED_2]), Err(HeaderError::TooLong(MAX_2)));
}

#[test]
fn other_protocols_have_no_proxy_header() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\x16\x03\x01",
        b"PROXYTCP4",
        b"\r\n\r\n\r\n",
        b"PRI *",
    ] {
        assert_eq!(parse(bytes), Err(HeaderError::Absent), "{bytes:?}");
    }
}

#[tokio::test]
async fn bytes_after_proxy_header_are_left_unread() {
    for header in [
        line("192.0.2.1:1".parse().unwrap()),
        version_2(0, 0, &[], 7),
    ] {
        // In pieces, the last of which has the first bytes of the request.
        let (mut client, near) = duplex(5);
        let sent = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
        tokio::spawn(async move { client.write_all(&sent).await });
        let mut stream = Prefixed::new(near);
        assert!(read(&mut stream).await.is_ok());
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "GET / HTTP/1.1\r\n");
    }
}

#[tokio::test(start_paused = true)]
async fn incomplete_proxy_header_is_refused_with_reason() {
    let refusal = async |sent: &'static [u8], end: bool| {
        let (mut client, near) = duplex(64);
        client.write_all(sent).await.unwrap();
        let _open = (!end).then_some(client);
        match ConnectionError::from(read(&mut Prefixed::new(near)).await.unwrap_err()) {
            ConnectionError::Refused { error_type, words } => format!("{error_type}: {words}"),
            other => other.to_string(),
        }
    };
    for (sent, end, expected) in [
        (
            &b"PROXY"[..],
            false,
            "proxy_protocol: the PROXY protocol header did not end within 5 s",
        ),
        (
            b"PROXY",
            true,
            "proxy_protocol: the connection ended within the PROXY protocol header",
        ),
        (
            b"GET /",
            false,
            "proxy_protocol: the connection does not begin with a PROXY protocol header",
        ),
        (b"", true, "unexpected end of file"),
    ] {
        assert_eq!(refusal(sent, end).await, expected);
    }
}

fn any_source() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits))),
    ];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

proptest! {
    #[test]
    fn proxy_header_is_complete_at_its_last_byte(
        source in any_source(),
        second: bool,
        more in 0_usize..300,
        rest: Vec<u8>,
    ) {
        let header = if second {
            let (family, bytes) = addresses_2(source);
            version_2(1, family, &bytes, bytes.len() + more)
        } else {
            line(source)
        };
        for length in 0..header.len() {
            prop_assert_eq!(parse(&header[..length]), Ok(Progress::More));
        }
        let length = header.len();
        let source = Some(SocketAddr::new(source.ip().to_canonical(), source.port()));
        let whole = Ok(Progress::Whole(Header { length, source }));
        prop_assert_eq!(parse(&[header, rest].concat()), whole);
    }
}

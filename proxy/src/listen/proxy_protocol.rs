//! The header of the PROXY protocol, versions 1 and 2, with which a load balancer begins a connection and names the
//! client that it came from.
//!
//! [`parse`] is pure and looks at all the bytes there are so far; [`read`] takes the header off a stream and leaves what
//! follows unread. To be used only where the gateway says that every connection begins so: who may choose whether to
//! send a header may choose its address.
//!
//! Source: `doc/proxy-protocol.txt` of HAProxy, "The PROXY protocol", versions 1 and 2. Of version 2's further fields
//! (TLVs) none is read.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::time::timeout;

use super::Closed;
use crate::detect::Prefixed;

/// Both begin so; the first bytes differ.
const SIGNATURE_1: &[u8] = b"PROXY ";
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its end included.
const MAX_LINE: usize = 107;
/// The part of version 2 that is always there.
const FIXED_2: usize = 16;
/// The longest header of version 2 that is taken: addresses of sockets have 216 bytes, and a certificate's fields follow.
const MAX_2: usize = 4 << 10;
/// Time for the header. The protocol asks for 3 s at least, the time of one lost segment.
const HEADER: Duration = Duration::from_secs(5);

/// How far the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// They are the beginning of a header.
    More,
    Whole(Header),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes that it takes.
    pub length: usize,
    /// Who opened the connection. `None`: the load balancer itself, or a client without an address; the socket's own
    /// address holds.
    pub source: Option<SocketAddr>,
}

/// The bytes are no header, and more of them would not make one.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HeaderError {
    #[error("the connection does not begin with a PROXY protocol header")]
    Absent,
    #[error("the PROXY protocol header is longer than {0} bytes")]
    TooLong(usize),
    #[error("the PROXY protocol header has a wrong {0}")]
    Malformed(&'static str),
}

/// No header was had from a connection.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("the PROXY protocol header did not end within 5 s")]
    Silent,
    #[error("the connection ended within the PROXY protocol header")]
    Ended,
    /// The connection broke off, or ended without a word as health checks do.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<ReadError> for Closed {
    /// Refused, and so counted, but for what is no fault of the header.
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            error => Self::refused("proxy_protocol", error.to_string()),
        }
    }
}

/// Takes the header off `stream`: what follows it is read next. Gives the client's address where the header has one; else
/// the socket's own address holds.
pub async fn read<S: AsyncRead + Unpin>(
    stream: &mut Prefixed<S>,
) -> Result<Option<SocketAddr>, ReadError> {
    let header = timeout(HEADER, whole(stream)).await;
    let header = header.unwrap_or(Err(ReadError::Silent))?;
    stream.take_off(header.length);
    Ok(header.source)
}

async fn whole<S: AsyncRead + Unpin>(stream: &mut Prefixed<S>) -> Result<Header, ReadError> {
    loop {
        if let Progress::Whole(header) = parse(stream.seen())? {
            return Ok(header);
        }
        if stream.look().await? == 0 {
            return Err(match stream.seen() {
                [] => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
                _ => ReadError::Ended,
            });
        }
    }
}

/// What `bytes`, all there are so far, begin with.
pub fn parse(bytes: &[u8]) -> Result<Progress, HeaderError> {
    let begins = |signature: &[u8]| {
        let length = bytes.len().min(signature.len());
        bytes[..length] == signature[..length]
    };
    if begins(SIGNATURE_1) {
        parse_1(bytes)
    } else if begins(SIGNATURE_2) {
        parse_2(bytes)
    } else {
        Err(HeaderError::Absent)
    }
}

fn parse_1(bytes: &[u8]) -> Result<Progress, HeaderError> {
    let seen = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        if seen.len() == MAX_LINE {
            return Err(HeaderError::TooLong(MAX_LINE));
        }
        return Ok(Progress::More);
    };
    let line = &seen[SIGNATURE_1.len()..end];
    let source = if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        None
    } else {
        let line = std::str::from_utf8(line).map_err(|_| HeaderError::Malformed("line"))?;
        Some(addresses_1(line)?)
    };
    let length = end + 2;
    Ok(Progress::Whole(Header { length, source }))
}

/// `TCP4 192.0.2.1 192.0.2.2 4711 443`
fn addresses_1(line: &str) -> Result<SocketAddr, HeaderError> {
    let parts: Vec<&str> = line.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = parts[..] else {
        return Err(HeaderError::Malformed("number of fields"));
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let wrong = || HeaderError::Malformed("address");
    let source = address(source).ok_or_else(wrong)?;
    address(destination).ok_or_else(wrong)?;
    let wrong = || HeaderError::Malformed("port");
    let source_port = port(source_port).ok_or_else(wrong)?;
    port(destination_port).ok_or_else(wrong)?;
    Ok(SocketAddr::new(source.to_canonical(), source_port))
}

/// Decimal, without sign or leading zeros.
fn port(text: &str) -> Option<u16> {
    let canonical = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| canonical)
}

fn parse_2(bytes: &[u8]) -> Result<Progress, HeaderError> {
    // What is wrong is said as soon as it is seen.
    let local = match bytes.get(12) {
        None => return Ok(Progress::More),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(HeaderError::Malformed("version or command")),
    };
    let Some(&family) = bytes.get(13) else {
        return Ok(Progress::More);
    };
    // Of the families that are no TCP over IP, the connection's own address holds.
    let known = matches!(family, 0x00 | 0x11 | 0x12 | 0x21 | 0x22 | 0x31 | 0x32);
    if !local && !known {
        return Err(HeaderError::Malformed("address family"));
    }
    let Some(&[high, low]) = bytes.get(14..16) else {
        return Ok(Progress::More);
    };
    let length = FIXED_2 + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_2 {
        return Err(HeaderError::TooLong(MAX_2));
    }
    let needed = match family {
        0x11 => 12,
        0x21 => 36,
        _ => 0,
    };
    if !local && length < FIXED_2 + needed {
        return Err(HeaderError::Malformed("length"));
    }
    let Some(rest) = bytes.get(FIXED_2..length) else {
        return Ok(Progress::More);
    };
    let source = if local { None } else { source_2(family, rest) };
    Ok(Progress::Whole(Header { length, source }))
}

/// `rest` is as long as the family's addresses, at least.
fn source_2(family: u8, rest: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| Some(u16::from_be_bytes(*rest.get(at..)?.first_chunk()?));
    match family {
        0x11 => Some(SocketAddr::from((*rest.first_chunk::<4>()?, port(8)?))),
        0x21 => {
            let address = IpAddr::from(*rest.first_chunk::<16>()?);
            Some(SocketAddr::new(address.to_canonical(), port(32)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

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
    fn lines_of_version_1() {
        let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n";
        let source = Some("192.0.2.1:4711".parse().unwrap());
        for (text, told) in [
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
            let told = told.map(|source| Progress::Whole(Header { length, source }));
            assert_eq!(
                parse(text.as_bytes()),
                told.map_err(HeaderError::Malformed),
                "{text}"
            );
        }
        let endless = [b"PROXY UNKNOWN ", &[b'x'; 200][..]].concat();
        assert_eq!(parse(&endless[..MAX_LINE - 1]), Ok(Progress::More));
        assert_eq!(parse(&endless), Err(HeaderError::TooLong(MAX_LINE)));
    }

    #[test]
    fn commands_and_families_of_version_2() {
        let client: SocketAddr = "192.0.2.1:4711".parse().unwrap();
        let (_, v4) = addresses_2(client);
        for (command, family, length, told) in [
            (1, 0x11, 12, Ok(Some(client))),
            (1, 0x11, 200, Ok(Some(client))),
            // A health check of the load balancer's own: whatever stands in it.
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
            let told = told.map(|source| Progress::Whole(Header { length, source }));
            assert_eq!(
                parse(&bytes),
                told.map_err(HeaderError::Malformed),
                "{bytes:?}"
            );
        }
        let short = version_2(1, 0x21, &v4, 12);
        assert_eq!(parse(&short), Err(HeaderError::Malformed("length")));
        let long = version_2(1, 0x11, &v4, MAX_2);
        assert_eq!(parse(&long[..FIXED_2]), Err(HeaderError::TooLong(MAX_2)));
    }

    #[test]
    fn other_protocols_are_no_header() {
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
    async fn what_follows_is_left_unread() {
        for header in [
            line("192.0.2.1:1".parse().unwrap()),
            version_2(0, 0, &[], 7),
        ] {
            // In pieces, and with the beginning of what follows in the last one.
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
    async fn the_silent_and_the_broken_off_are_closed_and_named() {
        let words = async |sent: &'static [u8], end: bool| {
            let (mut client, near) = duplex(64);
            client.write_all(sent).await.unwrap();
            let _open = (!end).then_some(client);
            match Closed::from(read(&mut Prefixed::new(near)).await.unwrap_err()) {
                Closed::Refused { reason, words } => format!("{reason}: {words}"),
                other => other.to_string(),
            }
        };
        for (sent, end, told) in [
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
            assert_eq!(words(sent, end).await, told);
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
        fn a_header_is_whole_at_its_last_byte(
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

        /// Also those that begin as a header does.
        #[test]
        fn more_bytes_change_no_answer(kind in 0_usize..4, bytes: Vec<u8>, cut: prop::sample::Index) {
            let beginning = [&b""[..], b"PROXY ", SIGNATURE_2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"][kind];
            let bytes = [beginning, &bytes].concat();
            let part = parse(&bytes[..cut.index(bytes.len() + 1)]);
            if part != Ok(Progress::More) {
                prop_assert_eq!(part, parse(&bytes));
            }
        }
    }
}

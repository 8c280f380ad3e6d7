//! The header of the PROXY protocol, versions 1 and 2, with which a load balancer begins a
//! connection and names the client that it came from.
//!
//! [`parse`] is pure and looks at all the bytes there are so far; [`read`] takes the header off a
//! stream and leaves what follows unread. To be used only where the gateway says that every
//! connection begins so: who may choose whether to send a header may choose its address.
//!
//! Source: `doc/proxy-protocol.txt` of HAProxy, "The PROXY protocol", versions 1 and 2. Of version
//! 2's further fields (TLVs) none is read.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::time::timeout;

use super::detect::Prefixed;

/// Both begin so; the first bytes differ.
const SIGNATURE_1: &[u8] = b"PROXY ";
const SIGNATURE_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its end included.
const MAX_LINE: usize = 107;
/// The part of version 2 that is always there.
const FIXED_2: usize = 16;
/// The longest header of version 2 that is taken: addresses of sockets have 216 bytes, and a
/// certificate's fields follow.
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
    /// Who opened the connection. `None`: the load balancer itself, or a client without an address;
    /// the socket's own address holds.
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

/// Takes the header off `stream`: what follows it is read next. Gives the client's address where
/// the header has one; else the socket's own address holds.
pub async fn read<S: AsyncRead + Unpin>(
    stream: &mut Prefixed<S>,
) -> Result<Option<SocketAddr>, ReadError> {
    let header = timeout(HEADER, whole(stream)).await;
    let header = header.unwrap_or(Err(ReadError::Silent))?;
    stream.consume(header.length);
    Ok(header.source)
}

async fn whole<S: AsyncRead + Unpin>(stream: &mut Prefixed<S>) -> Result<Header, ReadError> {
    loop {
        if let Progress::Whole(header) = parse(stream.peeked())? {
            return Ok(header);
        }
        if stream.peek().await? == 0 {
            return Err(match stream.peeked() {
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
mod tests;

//! Server name and application protocols of a ClientHello.
//!
//! Input whose first byte is that of a handshake record is taken as it is. Any other is the recipe
//! of a valid ClientHello ([`Hello`]), whose content is known.

use weft_proxy::net::detect::{alpn_protocols, server_name};

/// A longer ClientHello is refused, in bytes.
const MAX_LENGTH: usize = 64 << 10;
/// Prefixes that are tried.
const PREFIXES: usize = 24;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// Both functions agree on whether there is a ClientHello, the result does not change as more bytes
/// arrive, and it matches a plain reading of the message.
pub fn check(bytes: &[u8]) {
    match bytes.first() {
        None => {}
        Some(0x16) => check_raw(&bytes[..bytes.len().min(MAX_LENGTH)]),
        Some(_) => check_valid(&Hello::of(bytes)),
    }
}

fn check_raw(bytes: &[u8]) {
    let (name, protocols) = (server_name(bytes), alpn_protocols(bytes));
    assert_eq!(name.is_err(), protocols.is_err(), "{name:?} {protocols:?}");
    let (name, protocols) = (name.ok(), protocols.ok());
    for part in 0..PREFIXES {
        let end = bytes.len() * part / PREFIXES;
        match server_name(&bytes[..end]) {
            Ok(None) => {}
            early => assert_eq!(
                early.ok(),
                name,
                "after {end} bytes: {}",
                bytes.escape_ascii()
            ),
        }
    }
    let (Some(Some(name)), Some(Some(protocols))) = (&name, &protocols) else {
        assert_eq!(name.is_some(), protocols.is_some());
        return;
    };
    let message = message(bytes).unwrap_or_else(|| panic!("{name:?}: {}", bytes.escape_ascii()));
    let written = message.extension(SERVER_NAME).and_then(host_name);
    if let Some(name) = name {
        let written = written.expect("the extension");
        assert!(name.as_bytes().eq_ignore_ascii_case(written), "{name:?}");
    }
    let written = message.extension(ALPN).map(protocol_names);
    assert_eq!(*protocols, written.unwrap_or_default());
}

/// What a ClientHello says.
#[derive(Debug)]
pub struct Hello {
    /// In lower case.
    pub name: Option<String>,
    /// Application protocols.
    pub protocols: Vec<Vec<u8>>,
    /// Payload of each record in bytes.
    pub record: usize,
    /// Length of a padding extension (RFC 7685).
    pub padding: u16,
}

impl Hello {
    /// Reads a recipe: the size of records, the padding, the name's length, then name and protocol.
    fn of(bytes: &[u8]) -> Self {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
        let rest = bytes.get(3..).unwrap_or_default();
        let (name, protocol) = rest.split_at(rest.len().min(usize::from(byte(2) % 64)));
        let letter = |byte: &u8| char::from(b'a' + byte % 26);
        let protocol = &protocol[..protocol.len().min(255)];
        Self {
            name: (!name.is_empty()).then(|| name.iter().map(letter).collect()),
            protocols: (!protocol.is_empty())
                .then(|| protocol.to_vec())
                .into_iter()
                .collect(),
            record: usize::from(byte(0)) * 8 + 1,
            padding: u16::from(byte(1)) * 64,
        }
    }

    /// Encodes it as a client sends it.
    pub fn records(&self) -> Vec<u8> {
        let mut extensions = Vec::new();
        let mut extension = |kind: u16, content: &[u8]| {
            extensions.extend(kind.to_be_bytes());
            extensions.extend(vector(2, content));
        };
        if let Some(name) = &self.name {
            let entry = [&[0], &vector(2, name.as_bytes())[..]].concat();
            extension(SERVER_NAME, &vector(2, &entry));
        }
        if !self.protocols.is_empty() {
            let names = self.protocols.iter().flat_map(|name| vector(1, name));
            extension(ALPN, &vector(2, &names.collect::<Vec<u8>>()));
        }
        // Groups, signature schemes, versions and key shares, without which it is no ClientHello of
        // TLS 1.3.
        extension(10, &vector(2, &[0, 0x1d]));
        extension(13, &vector(2, &[4, 3]));
        extension(43, &vector(1, &[3, 4]));
        extension(51, &vector(2, &[]));
        extension(21, &vec![0; usize::from(self.padding)]);
        let session = vector(1, &[9; 32]);
        let suites = vector(2, &[0x13, 0x01]);
        let extensions = vector(2, &extensions);
        let body = [
            &[3, 3][..],
            &[7; 32],
            &session,
            &suites,
            &[1, 0],
            &extensions,
        ]
        .concat();
        let message = [&[1], &vector(3, &body)[..]].concat();
        let records = message.chunks(self.record.max(1));
        records
            .flat_map(|part| [&[0x16, 3, 1], &vector(2, part)[..]].concat())
            .collect()
    }
}

/// A valid ClientHello is complete at its last byte, and read as it was written, unless it is too
/// long.
pub fn check_valid(hello: &Hello) {
    let bytes = hello.records();
    if bytes.len() > MAX_LENGTH {
        assert!(server_name(&bytes).is_err(), "{hello:?}");
        return;
    }
    assert_eq!(
        server_name(&bytes),
        Ok(Some(hello.name.clone())),
        "{hello:?}"
    );
    assert_eq!(
        alpn_protocols(&bytes),
        Ok(Some(hello.protocols.clone())),
        "{hello:?}"
    );
    let ends = (0..PREFIXES).map(|part| bytes.len() * part / PREFIXES);
    for end in ends.chain([bytes.len() - 1]) {
        assert_eq!(
            server_name(&bytes[..end]),
            Ok(None),
            "after {end} bytes: {hello:?}"
        );
    }
}

/// Returns the content behind its length of so many bytes.
fn vector(length: usize, content: &[u8]) -> Vec<u8> {
    let bytes = content.len().to_be_bytes();
    [&bytes[bytes.len() - length..], content].concat()
}

/// A ClientHello message, without its header.
struct Message(Vec<u8>);

/// Joins the records; returns the first message, without what follows it.
fn message(mut bytes: &[u8]) -> Option<Message> {
    let mut whole = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let Some((part, rest)) = rest.split_at_checked(length) else {
            break;
        };
        whole.extend_from_slice(part);
        bytes = rest;
    }
    let mut reader = Reader(&whole);
    (reader.take(1)? == [1]).then_some(())?;
    Some(Message(reader.vector(3)?.to_vec()))
}

impl Message {
    /// Returns the content of an extension (RFC 8446, 4.1.2 and 4.2).
    fn extension(&self, wanted: u16) -> Option<&[u8]> {
        let mut reader = Reader(&self.0);
        reader.take(2 + 32)?;
        reader.vector(1)?;
        reader.vector(2)?;
        reader.vector(1)?;
        let mut extensions = Reader(reader.vector(2)?);
        loop {
            let kind = extensions.take(2)?;
            let content = extensions.vector(2)?;
            if kind == wanted.to_be_bytes() {
                return Some(content);
            }
        }
    }
}

/// Returns the first host name (RFC 6066, 3).
fn host_name(extension: &[u8]) -> Option<&[u8]> {
    let mut list = Reader(Reader(extension).vector(2)?);
    loop {
        let kind = list.take(1)?;
        let name = list.vector(2)?;
        if kind == [0] {
            return Some(name);
        }
    }
}

fn protocol_names(extension: &[u8]) -> Vec<Vec<u8>> {
    let mut names = Reader(Reader(extension).vector(2).unwrap_or_default());
    std::iter::from_fn(|| names.vector(1).map(<[u8]>::to_vec)).collect()
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(part)
    }

    /// Reads what follows its length of so many bytes.
    fn vector(&mut self, length: usize) -> Option<&'a [u8]> {
        let length = self.take(length)?.iter();
        self.take(length.fold(0, |all, byte| all << 8 | usize::from(*byte)))
    }
}

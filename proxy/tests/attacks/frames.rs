//! Raw HTTP/2 frames (RFC 9113, 4.1), and HPACK header blocks without Huffman coding (RFC 7541).

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], to: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    to.extend_from_slice(&length[1..]);
    to.extend_from_slice(&[kind, flags]);
    to.extend_from_slice(&stream.to_be_bytes());
    to.extend_from_slice(payload);
}

/// Encodes an integer with a prefix of `bits` bits; `first` is the rest of that byte (RFC 7541,
/// 5.1).
fn integer(first: u8, bits: u32, mut value: usize, to: &mut Vec<u8>) {
    let most = (1 << bits) - 1;
    if value < most {
        to.push(first | u8::try_from(value).unwrap());
        return;
    }
    to.push(first | u8::try_from(most).unwrap());
    value -= most;
    while value >= 128 {
        to.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    to.push(u8::try_from(value).unwrap());
}

fn text(text: &[u8], to: &mut Vec<u8>) {
    integer(0, 7, text.len(), to);
    to.extend_from_slice(text);
}

/// A literal field without indexing (RFC 7541, 6.2.2).
pub fn literal(name: &str, value: &[u8], block: &mut Vec<u8>) {
    block.push(0);
    text(name.as_bytes(), block);
    text(value, block);
}

/// A literal field with incremental indexing, then the [`NEWEST`] entry (RFC 7541, 6.2.1).
pub fn remembered(name: &str, value: &[u8], block: &mut Vec<u8>) {
    block.push(0x40);
    text(name.as_bytes(), block);
    text(value, block);
}

/// The newest entry of the dynamic table as an indexed field of one byte (RFC 7541, 6.1 and 2.3.3).
pub const NEWEST: u8 = 0x80 | 62;

/// The pseudo-fields of a request.
pub fn pseudo(method: &str, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "shop.example"),
    ] {
        literal(name, value.as_bytes(), &mut block);
    }
    block
}

/// A complete header block in one HEADERS frame.
pub fn headers(stream: u32, flags: u8, block: &[u8], to: &mut Vec<u8>) {
    frame(HEADERS, flags | END_HEADERS, stream, block, to);
}

/// The preface and SETTINGS of a client with this initial window.
pub fn opening(window: u32) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    let mut setting = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    setting.extend_from_slice(&window.to_be_bytes());
    frame(SETTINGS, 0, 0, &setting, &mut bytes);
    bytes
}

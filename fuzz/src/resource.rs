//! The protocol between controller and proxy.

use prost::Message;
use weft_api::{Resource, decode, encode, proto};

/// Bytes are rejected, or decoded to a resource that encodes to itself.
pub fn check(bytes: &[u8]) {
    let _ = proto::Update::decode(bytes);
    let Ok(wire) = proto::Resource::decode(bytes) else {
        return;
    };
    if let Ok((_, _, resource)) = decode::resource(wire) {
        assert_round_trip(&resource);
    }
}

/// Panics unless the resource is the same after it was sent.
pub fn assert_round_trip(resource: &Resource) {
    let sent = encode::any(resource);
    let bytes = sent.encode_to_vec();
    let received = proto::Resource::decode(&bytes[..]).expect("what was encoded");
    let decoded = decode::resource(received);
    let (key, version, decoded) = decoded.unwrap_or_else(|error| panic!("{error}: {sent:?}"));
    assert_eq!(&decoded, resource);
    assert_eq!((key.to_string(), version), (sent.key, sent.version));
}

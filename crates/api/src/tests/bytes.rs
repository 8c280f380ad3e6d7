//! Random bytes, and resources with some bytes changed: rejected, or decoded to a value that
//! encodes to itself.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::LazyLock;

use prost::Message;

use super::authorization;
use super::gateway::ports;
use super::{connections, everything, pod};
use crate::{Resource, decode, encode, proto};
use weft_ir::*;

/// One resource of each kind, as it is sent.
fn resources() -> Vec<proto::Resource> {
    let mut all = vec![
        encode::workload(&Workload::new(pod().identity.unwrap(), Mode::Permissive)),
        encode::roots(&TrustedRoots {
            signer: b"signer".to_vec(),
            additional: vec![b"additional".to_vec()],
        }),
        encode::destination(&everything()),
        encode::authorizations(&authorization::everything()),
    ];
    all.extend(ports().iter().map(encode::gateway_port));
    for routing in connections() {
        let mut destination = everything();
        if let Target::Service(service) = &mut destination.target {
            std::sync::Arc::make_mut(service).routing = routing;
        }
        all.push(encode::destination(&destination));
    }
    all
}

/// Returns what is decoded from the bytes, if anything, and the same after encoding it again.
fn there_and_back(bytes: &[u8]) -> Option<[(ResourceKey, Resource); 2]> {
    let wire = proto::Resource::decode(bytes).ok()?;
    let (key, _, resource) = decode::resource(wire).ok()?;
    let sent = encode::any(&resource).encode_to_vec();
    let wire = proto::Resource::decode(&sent[..]).expect("what was encoded");
    let (again, _, same) = decode::resource(wire).expect("what was decoded before");
    Some([(key, resource), (again, same)])
}

/// The encoded resources.
static SENT: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let all = resources();
    all.iter().map(Message::encode_to_vec).collect()
});

proptest! {
    // Patterns are compiled for each.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_rejected_or_decoded(bytes: Vec<u8>) {
        let _ = proto::Update::decode(&bytes[..]);
        there_and_back(&bytes);
    }

    #[test]
    fn modified_resources_decode_to_what_encodes_to_itself(
        which: Index,
        places in vec((any::<Index>(), any::<u8>()), 0..4),
        cut: Option<Index>,
    ) {
        let mut bytes = SENT[which.index(SENT.len())].clone();
        for (place, byte) in places {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Some([first, second]) = there_and_back(&bytes) {
            prop_assert_eq!(first, second);
        }
    }
}

//! XXH64, a hash that is the same everywhere and in every version.
//!
//! Source: xxHash fast digest algorithm, version 0.2.0 (`doc/xxhash_spec.md` of Cyan4973/xxHash).

const PRIMES: [u64; 5] = [
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
];

/// Returns the hash of the bytes with a seed.
pub(super) fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    let mut stripes = bytes.chunks_exact(32);
    let mut hash = match bytes.len() {
        ..32 => seed.wrapping_add(PRIMES[4]),
        _ => converge(&mut stripes, seed),
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    let mut lanes = stripes.remainder().chunks_exact(8);
    for lane in &mut lanes {
        hash = (hash ^ round(0, little_endian(lane))).rotate_left(27);
        hash = hash.wrapping_mul(PRIMES[0]).wrapping_add(PRIMES[3]);
    }
    let mut words = lanes.remainder().chunks_exact(4);
    for word in &mut words {
        hash = (hash ^ little_endian(word).wrapping_mul(PRIMES[0])).rotate_left(23);
        hash = hash.wrapping_mul(PRIMES[1]).wrapping_add(PRIMES[2]);
    }
    for &byte in words.remainder() {
        hash = (hash ^ u64::from(byte).wrapping_mul(PRIMES[4])).rotate_left(11);
        hash = hash.wrapping_mul(PRIMES[0]);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(PRIMES[1]);
    hash = (hash ^ (hash >> 29)).wrapping_mul(PRIMES[2]);
    hash ^ (hash >> 32)
}

/// Consumes all stripes of 32 bytes.
fn converge(stripes: &mut std::slice::ChunksExact<'_, u8>, seed: u64) -> u64 {
    let mut lanes = [
        seed.wrapping_add(PRIMES[0]).wrapping_add(PRIMES[1]),
        seed.wrapping_add(PRIMES[1]),
        seed,
        seed.wrapping_sub(PRIMES[0]),
    ];
    for stripe in stripes {
        for (lane, bytes) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
            *lane = round(*lane, little_endian(bytes));
        }
    }
    let rotations = [1, 7, 12, 18];
    let rotated = lanes
        .iter()
        .zip(rotations)
        .map(|(lane, by)| lane.rotate_left(by));
    let sum = rotated.fold(0, u64::wrapping_add);
    lanes.iter().fold(sum, |hash, &lane| {
        let merged = hash ^ round(0, lane);
        merged.wrapping_mul(PRIMES[0]).wrapping_add(PRIMES[3])
    })
}

fn round(lane: u64, input: u64) -> u64 {
    let mixed = lane.wrapping_add(input.wrapping_mul(PRIMES[1]));
    mixed.rotate_left(31).wrapping_mul(PRIMES[0])
}

fn little_endian(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the reference implementation.
    #[test]
    fn hashes_are_those_of_the_reference() {
        for (text, seed, hash) in [
            ("", 0, 0xEF46_DB37_51D8_E999),
            ("a", 0, 0xD24E_C4F1_A98C_6E5B),
            ("abc", 0, 0x44BC_2CF5_AD77_0999),
            ("xxhash", 20_141_025, 0xB559_B98D_844E_0635),
            (
                "Nobody inspects the spammish repetition",
                0,
                0xFBCE_A83C_8A37_8BF1,
            ),
        ] {
            assert_eq!(xxh64(text.as_bytes(), seed), hash, "{text}");
        }
    }
}

//! Ranges of addresses, as `10.96.0.0/12` or `fd00::/48`.

use std::net::IpAddr;
use std::str::FromStr;

/// All addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: IpAddr,
    bits: u8,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of the form 10.96.0.0/12 or fd00::/48")]
pub struct NoRange(String);

impl FromStr for Range {
    type Err = NoRange;

    fn from_str(text: &str) -> Result<Self, NoRange> {
        let no_range = || NoRange(text.chars().take(64).collect());
        let (first, bits) = text.split_once('/').ok_or_else(no_range)?;
        let first: IpAddr = first.parse().map_err(|_| no_range())?;
        let bits: u8 = bits.parse().map_err(|_| no_range())?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        if bits > most {
            return Err(no_range());
        }
        Ok(Self { first, bits })
    }
}

impl Range {
    /// An IPv4 address inside IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let differing = first.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.bits)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let differing = first.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_begins_with_their_bits() {
        for (range, address, holds) in [
            ("10.96.0.0/12", "10.96.0.1", true),
            ("10.96.0.0/12", "10.111.255.255", true),
            ("10.96.0.0/12", "10.112.0.0", false),
            ("10.96.0.0/12", "::ffff:10.96.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("fd00::/48", "fd00:0:0:1::1", true),
            ("fd00::/48", "fd00:0:1::1", false),
        ] {
            let parsed: Range = range.parse().unwrap();
            assert_eq!(
                parsed.contains(address.parse().unwrap()),
                holds,
                "{range} {address}"
            );
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.0/-1",
            "a/8",
            "10.0.0/8",
        ] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}

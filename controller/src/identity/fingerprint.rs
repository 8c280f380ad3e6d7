//! The digest that identifies a root in what replicas report.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use weft_api::encode;
use weft_ir::TrustedRoots;

/// The digest of a root: the version that it has as a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootFingerprint(u64);

impl RootFingerprint {
    /// Returns the fingerprint of a root in DER.
    pub fn of(root: &[u8]) -> Self {
        let alone = TrustedRoots {
            signer: root.to_vec(),
            additional: Vec::new(),
        };
        Self(encode::roots(&alone).version)
    }
}

impl fmt::Display for RootFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for RootFingerprint {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

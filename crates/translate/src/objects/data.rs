//! Secrets, ConfigMaps and ClusterTrustBundles: certificates, bundles of authorities, and the parameters of Gateways.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::lenient::or_default;
use super::meta::Meta;

/// Of its data only what a key pair, or a bundle of authorities, is made of.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Secret {
    pub metadata: Meta,
    /// `kubernetes.io/tls`, or another.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub data: SecretData,
    /// It was deleted, and is kept for [`Secret::LINGERS`].
    #[serde(skip)]
    pub gone: bool,
}

impl Secret {
    /// How long its last certificate serves after it was deleted: `kubectl replace --force` deletes it and creates it again.
    pub const LINGERS: Duration = Duration::from_secs(60);

    #[must_use]
    pub fn gone(&self) -> Self {
        Self {
            gone: true,
            ..self.clone()
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SecretData {
    #[serde(rename = "tls.crt")]
    pub chain: Option<SecretBytes>,
    #[serde(rename = "tls.key")]
    pub key: Option<SecretBytes>,
    /// Whether the two belong together.
    #[serde(skip)]
    pub(crate) sound: Verdict,
}

/// What a check of an object's content came to: found out once for each version of the object, since one that is watched
/// is never changed but replaced. Says nothing that the content does not say.
#[derive(Clone, Default)]
pub(crate) struct Verdict(OnceLock<Result<(), String>>);

impl Verdict {
    pub(crate) fn or_check(&self, check: impl FnOnce() -> Result<(), String>) -> Result<(), &str> {
        let known = self.0.get_or_init(check).as_ref();
        known.copied().map_err(String::as_str)
    }
}

impl PartialEq for Verdict {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verdict")
    }
}

/// Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(pub Arc<[u8]>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.0.len())
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    /// Base64, as the API server writes it. The error does not quote it.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = STANDARD.decode(text);
        bytes
            .map(|bytes| Self(bytes.into()))
            .map_err(|_| D::Error::custom("a value of data is no base64"))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub data: BTreeMap<String, String>,
    /// Whether `ca.crt` is a bundle of authorities.
    #[serde(skip)]
    pub(crate) sound: Verdict,
}

/// Authorities that the cluster shares.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ClusterTrustBundle {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: ClusterTrustBundleSpec,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterTrustBundleSpec {
    /// PEM.
    #[serde(deserialize_with = "or_default")]
    pub trust_bundle: String,
    /// Whether it is a bundle of authorities.
    #[serde(skip)]
    pub(crate) sound: Verdict,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_checked_once_for_as_long_as_the_object_is_there() {
        let mut checks = 0;
        let secret = SecretData::default();
        for _ in 0..3 {
            let verdict = secret.sound.or_check(|| {
                checks += 1;
                Err("is no sound PEM".to_owned())
            });
            assert_eq!(verdict, Err("is no sound PEM"));
        }
        assert_eq!(checks, 1);
        assert_eq!(secret, SecretData::default());
        assert_eq!(SecretData::default().sound.or_check(|| Ok(())), Ok(()));
    }
}

//! Secrets, ConfigMaps and ClusterTrustBundles: certificates, CA bundles, and the parameters of
//! Gateways.

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

/// A Secret. Of its data, only a key pair is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Secret {
    pub metadata: Meta,
    /// `kubernetes.io/tls` or another type.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub data: SecretData,
    /// Whether it was deleted and is only kept for [`Secret::LINGERS`].
    #[serde(skip)]
    pub gone: bool,
}

impl Secret {
    /// How long the certificate of a deleted Secret is still served: `kubectl replace --force`
    /// deletes a Secret and creates it again.
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
    /// Whether certificate and key belong together.
    #[serde(skip)]
    pub(crate) validity: CachedCheck,
}

/// The result of checking an object's content. It is computed once for each version of the object,
/// which is safe because watched objects are never modified but replaced. It carries no information
/// beyond the content, so all values compare equal.
#[derive(Clone, Default)]
pub(crate) struct CachedCheck(OnceLock<Result<(), String>>);

impl CachedCheck {
    pub(crate) fn get_or_check(
        &self,
        check: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), &str> {
        let known = self.0.get_or_init(check).as_ref();
        known.copied().map_err(String::as_str)
    }
}

impl PartialEq for CachedCheck {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for CachedCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verdict")
    }
}

/// Secret content, which `Debug` does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretBytes(pub Arc<[u8]>);

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.0.len())
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    /// Expects base64, as the API server writes it. The error does not quote the value.
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
    /// Whether `ca.crt` is a valid CA bundle.
    #[serde(skip)]
    pub(crate) validity: CachedCheck,
}

/// A CA bundle that is available to the whole cluster.
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
    /// Whether it is a valid CA bundle.
    #[serde(skip)]
    pub(crate) validity: CachedCheck,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_checked_once_per_object() {
        let mut checks = 0;
        let secret = SecretData::default();
        for _ in 0..3 {
            let verdict = secret.validity.get_or_check(|| {
                checks += 1;
                Err("is no sound PEM".to_owned())
            });
            assert_eq!(verdict, Err("is no sound PEM"));
        }
        assert_eq!(checks, 1);
        assert_eq!(secret, SecretData::default());
        assert_eq!(
            SecretData::default().validity.get_or_check(|| Ok(())),
            Ok(())
        );
    }
}

//! References to Secrets, ConfigMaps and ClusterTrustBundles: what they hold, or why they cannot be used.
//!
//! Source: `ListenerTLSConfig.certificateRefs`, `FrontendTLSValidation.caCertificateRefs`,
//! `GatewayBackendTLS.clientCertificateRef`, `BackendTLSPolicyValidation.caCertificateRefs`, of Gateway API v1.7.0. A
//! ClusterTrustBundle is of no namespace and meant for all: no grant is asked for.

use std::collections::HashMap;
use std::sync::Arc;

use weft_ir::KeyPair;

use super::grants::{Grants, Referent, Referrer};
use super::pem;
use crate::conditions::Fault;
use crate::objects::{
    ClusterTrustBundle, ClusterTrustBundleSpec, ConfigMap, Lenient, Meta, ObjectRef, Secret,
    SecretData,
};

/// Secrets and ConfigMaps by namespace and name, ClusterTrustBundles by name.
#[derive(Debug)]
pub(crate) struct Data<'a> {
    secrets: ByName<'a, Secret>,
    config_maps: ByName<'a, ConfigMap>,
    bundles: ByName<'a, ClusterTrustBundle>,
}

/// Of a ClusterTrustBundle.
const CERTIFICATES_GROUP: &str = "certificates.k8s.io";
const TRUST_BUNDLE: &str = "ClusterTrustBundle";

type ByName<'a, T> = HashMap<(&'a str, &'a str), &'a T>;

fn by_name<T>(objects: &[Arc<T>], meta: fn(&T) -> &Meta) -> ByName<'_, T> {
    let named = objects.iter().map(|of| {
        let meta = meta(of);
        ((&*meta.namespace, &*meta.name), of.as_ref())
    });
    named.collect()
}

/// The reasons that a place has for what can be wrong with a reference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reasons {
    pub(crate) kind: &'static str,
    pub(crate) referent: &'static str,
}

/// Of `ListenerTLSConfig.certificateRefs`.
pub(crate) const CERTIFICATE: Reasons = Reasons {
    kind: "InvalidCertificateRef",
    referent: "InvalidCertificateRef",
};
/// Of `GatewayBackendTLS.clientCertificateRef`.
pub(crate) const CLIENT_CERTIFICATE: Reasons = Reasons {
    kind: "InvalidClientCertificateRef",
    referent: "InvalidClientCertificateRef",
};
/// Of `FrontendTLSValidation.caCertificateRefs`.
pub(crate) const FRONTEND_CA: Reasons = Reasons {
    kind: "InvalidCACertificateKind",
    referent: "InvalidCACertificateRef",
};
/// Of `BackendTLSPolicyValidation.caCertificateRefs`.
pub(crate) const BACKEND_CA: Reasons = Reasons {
    kind: "InvalidKind",
    referent: "InvalidCACertificateRef",
};

impl<'a> Data<'a> {
    pub(crate) fn new(
        secrets: &'a [Arc<Secret>],
        config_maps: &'a [Arc<ConfigMap>],
        bundles: &'a [Arc<ClusterTrustBundle>],
    ) -> Self {
        Self {
            secrets: by_name(secrets, |of| &of.metadata),
            config_maps: by_name(config_maps, |of| &of.metadata),
            bundles: by_name(bundles, |of| &of.metadata),
        }
    }

    pub(crate) fn config_map(&self, namespace: &str, name: &str) -> Option<&'a ConfigMap> {
        self.config_maps.get(&(namespace, name)).copied()
    }
}

/// Who refers, and what permits it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    pub(crate) data: &'a Data<'a>,
    pub(crate) grants: &'a Grants,
    pub(crate) from: Referrer<'a>,
}

impl<'a> Reader<'a> {
    /// The key pair in a Secret; with what is to be said of it, though it serves.
    pub(crate) fn key_pair(
        &self,
        entry: &Lenient<ObjectRef>,
        at: &str,
        reasons: Reasons,
    ) -> Result<(KeyPair, Option<Fault>), Fault> {
        let unusable = |why: &str| fault(reasons.referent, at, why);
        let spec = entry.as_ref().map_err(unusable)?;
        let (namespace, name) = self.permitted(spec, "Secret", at, reasons)?;
        let secret = self.data.secrets.get(&(namespace, name));
        let secret = secret.ok_or_else(|| {
            unusable(&format!(
                "there is no Secret {namespace}/{name}; create it with type kubernetes.io/tls"
            ))
        })?;
        let SecretData { chain, key, sound } = &secret.data;
        let (Some(chain), Some(key)) = (chain, key) else {
            let missing = if chain.is_none() {
                "tls.crt"
            } else {
                "tls.key"
            };
            return Err(unusable(&format!(
                "Secret {namespace}/{name} has no {missing}; it needs tls.crt and tls.key, as of type kubernetes.io/tls"
            )));
        };
        sound
            .or_check(|| pem::check_key_pair(&chain.0, &key.0))
            .map_err(|why| unusable(&format!("Secret {namespace}/{name}: {why}")))?;
        let pair = KeyPair {
            chain: Arc::clone(&chain.0),
            key: Arc::clone(&key.0),
        };
        let gone = secret.gone.then(|| {
            let seconds = Secret::LINGERS.as_secs();
            unusable(&format!(
                "Secret {namespace}/{name} was deleted; what it held is used for {seconds} s from then on, and no longer \
                 unless it is created again"
            ))
        });
        Ok((pair, gone))
    }

    /// The bundles that hold, in one; with what is wrong with the others.
    pub(crate) fn bundles(
        &self,
        entries: &[Lenient<ObjectRef>],
        at: &str,
        reasons: Reasons,
    ) -> (Option<Arc<[u8]>>, Vec<Fault>) {
        let mut all = String::new();
        let mut faults = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            match self.bundle(entry, &format!("{at}[{place}]"), reasons) {
                Ok(pem) => {
                    all.push_str(pem);
                    all.push('\n');
                }
                Err(fault) => faults.push(fault),
            }
        }
        let bundle = (!all.is_empty()).then(|| Arc::from(all.as_bytes()));
        (bundle, faults)
    }

    fn bundle(
        &self,
        entry: &Lenient<ObjectRef>,
        at: &str,
        reasons: Reasons,
    ) -> Result<&'a str, Fault> {
        let unusable = |why: &str| fault(reasons.referent, at, why);
        let spec = entry.as_ref().map_err(unusable)?;
        if spec.group == CERTIFICATES_GROUP && spec.kind.as_deref() == Some(TRUST_BUNDLE) {
            return self.trust_bundle(spec, unusable);
        }
        let (namespace, name) = self.permitted(spec, "ConfigMap", at, reasons)?;
        let map = self.data.config_map(namespace, name);
        let map = map.ok_or_else(|| {
            unusable(&format!(
                "there is no ConfigMap {namespace}/{name}; create it with the authority's certificate as ca.crt"
            ))
        })?;
        let pem = map
            .data
            .get("ca.crt")
            .ok_or_else(|| unusable(&format!("ConfigMap {namespace}/{name} has no key ca.crt")))?;
        map.sound
            .or_check(|| pem::check_bundle(pem.as_bytes()))
            .map_err(|why| unusable(&format!("ca.crt of ConfigMap {namespace}/{name} {why}")))?;
        Ok(pem)
    }

    fn trust_bundle(
        &self,
        spec: &ObjectRef,
        unusable: impl Fn(&str) -> Fault,
    ) -> Result<&'a str, Fault> {
        let name = spec.name.as_str();
        if spec.namespace.as_deref().is_some_and(|of| !of.is_empty()) {
            let why = "a ClusterTrustBundle is of no namespace; remove the field namespace";
            return Err(unusable(why));
        }
        let bundle = self.data.bundles.get(&("", name)).ok_or_else(|| {
            unusable(&format!(
                "there is no ClusterTrustBundle {name}, or the cluster does not serve the kind"
            ))
        })?;
        let ClusterTrustBundleSpec {
            trust_bundle,
            sound,
        } = &bundle.spec;
        sound
            .or_check(|| pem::check_bundle(trust_bundle.as_bytes()))
            .map_err(|why| unusable(&format!("ClusterTrustBundle {name} {why}")))?;
        Ok(trust_bundle)
    }

    /// Namespace and name of what may be read.
    fn permitted<'s>(
        &'s self,
        spec: &'s ObjectRef,
        wanted: &'static str,
        at: &str,
        reasons: Reasons,
    ) -> Result<(&'s str, &'s str), Fault> {
        let ObjectRef {
            group,
            kind,
            name,
            namespace,
        } = spec;
        let kind = kind.as_deref().unwrap_or(wanted);
        if !matches!(group.as_str(), "" | "core") || kind != wanted {
            let group = if group.is_empty() { "core" } else { group };
            let why = format!(
                "kind {kind} of group {group} is not supported; a {wanted} of the core group is"
            );
            return Err(fault(reasons.kind, at, &why));
        }
        let namespace = namespace.as_deref().filter(|named| !named.is_empty());
        let namespace = namespace.unwrap_or(self.from.namespace);
        let to = Referent {
            group: "",
            kind: wanted,
            namespace,
            name,
        };
        self.grants
            .check(self.from, to)
            .map_err(|why| fault("RefNotPermitted", at, &why))?;
        Ok((namespace, name))
    }
}

fn fault(reason: &'static str, at: &str, why: &str) -> Fault {
    Fault {
        reason,
        text: format!("{at}: {why}"),
    }
}

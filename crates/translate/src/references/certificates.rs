//! References to Secrets, ConfigMaps and ClusterTrustBundles: their content, or why they cannot be
//! used.
//!
//! Source: `ListenerTLSConfig.certificateRefs`, `FrontendTLSValidation.caCertificateRefs`,
//! `GatewayBackendTLS.clientCertificateRef`, `BackendTLSPolicyValidation.caCertificateRefs`, of
//! Gateway API v1.7.0. A ClusterTrustBundle is cluster-scoped and available to all, so it needs no
//! grant.

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
pub(crate) struct ReferencedObjects<'a> {
    secrets: ByName<'a, Secret>,
    config_maps: ByName<'a, ConfigMap>,
    bundles: ByName<'a, ClusterTrustBundle>,
}

/// API group of ClusterTrustBundle.
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

/// The condition reasons for faults of a reference, which depend on the field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReferenceReasons {
    /// For an unsupported kind.
    pub(crate) kind: &'static str,
    /// For an object that is missing or invalid.
    pub(crate) referent: &'static str,
}

/// Reasons of `ListenerTLSConfig.certificateRefs`.
pub(crate) const CERTIFICATE: ReferenceReasons = ReferenceReasons {
    kind: "InvalidCertificateRef",
    referent: "InvalidCertificateRef",
};
/// Reasons of `GatewayBackendTLS.clientCertificateRef`.
pub(crate) const CLIENT_CERTIFICATE: ReferenceReasons = ReferenceReasons {
    kind: "InvalidClientCertificateRef",
    referent: "InvalidClientCertificateRef",
};
/// Reasons of `FrontendTLSValidation.caCertificateRefs`.
pub(crate) const FRONTEND_CA: ReferenceReasons = ReferenceReasons {
    kind: "InvalidCACertificateKind",
    referent: "InvalidCACertificateRef",
};
/// Reasons of `BackendTLSPolicyValidation.caCertificateRefs`.
pub(crate) const BACKEND_CA: ReferenceReasons = ReferenceReasons {
    kind: "InvalidKind",
    referent: "InvalidCACertificateRef",
};

impl<'a> ReferencedObjects<'a> {
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

/// Resolves the references of one object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CertificateReader<'a> {
    pub(crate) data: &'a ReferencedObjects<'a>,
    pub(crate) grants: &'a Grants,
    pub(crate) from: Referrer<'a>,
}

impl<'a> CertificateReader<'a> {
    /// Returns the key pair in a Secret, and a fault to report even though the pair is used.
    pub(crate) fn key_pair(
        &self,
        entry: &Lenient<ObjectRef>,
        at: &str,
        reasons: ReferenceReasons,
    ) -> Result<(KeyPair, Option<Fault>), Fault> {
        let unusable = |why: &str| fault(reasons.referent, at, why);
        let spec = entry.as_ref().map_err(unusable)?;
        let (namespace, name) = self.permitted(spec, "Secret", at, reasons)?;
        let secret = self.data.secrets.get(&(namespace, name));
        let secret = secret.ok_or_else(|| {
            unusable(&format!(
                "Secret {namespace}/{name} does not exist; create it with type kubernetes.io/tls"
            ))
        })?;
        let SecretData {
            chain,
            key,
            validity,
        } = &secret.data;
        let (Some(chain), Some(key)) = (chain, key) else {
            let missing = if chain.is_none() {
                "tls.crt"
            } else {
                "tls.key"
            };
            return Err(unusable(&format!(
                "Secret {namespace}/{name} has no {missing}; a Secret of type kubernetes.io/tls \
                 has tls.crt and tls.key"
            )));
        };
        validity
            .get_or_check(|| pem::check_key_pair(&chain.0, &key.0))
            .map_err(|why| unusable(&format!("Secret {namespace}/{name}: {why}")))?;
        let pair = KeyPair {
            chain: Arc::clone(&chain.0),
            key: Arc::clone(&key.0),
        };
        let gone = secret.gone.then(|| {
            let seconds = Secret::LINGERS.as_secs();
            unusable(&format!(
                "Secret {namespace}/{name} was deleted; its certificate is served for {seconds} s \
                 after the deletion, and no longer unless the Secret is created again"
            ))
        });
        Ok((pair, gone))
    }

    /// Returns the usable CA bundles as one, and the faults of the others.
    pub(crate) fn bundles(
        &self,
        entries: &[Lenient<ObjectRef>],
        at: &str,
        reasons: ReferenceReasons,
    ) -> (Option<Arc<[u8]>>, Vec<Fault>) {
        let mut all = String::new();
        let mut faults = Vec::new();
        for (position, entry) in entries.iter().enumerate() {
            match self.bundle(entry, &format!("{at}[{position}]"), reasons) {
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
        reasons: ReferenceReasons,
    ) -> Result<&'a str, Fault> {
        let unusable = |why: &str| fault(reasons.referent, at, why);
        let spec = entry.as_ref().map_err(unusable)?;
        if spec.group == CERTIFICATES_GROUP && spec.kind.as_deref() == Some(TRUST_BUNDLE) {
            return self.trust_bundle(spec, unusable);
        }
        let (namespace, name) = self.permitted(spec, "ConfigMap", at, reasons)?;
        let map = self.data.config_map(namespace, name);
        ca_of_config_map(map, namespace, name).map_err(|why| unusable(&why))
    }

    fn trust_bundle(
        &self,
        spec: &ObjectRef,
        unusable: impl Fn(&str) -> Fault,
    ) -> Result<&'a str, Fault> {
        let name = spec.name.as_str();
        if spec.namespace.as_deref().is_some_and(|of| !of.is_empty()) {
            let why = "a ClusterTrustBundle is cluster-scoped; remove the field namespace";
            return Err(unusable(why));
        }
        let bundle = self.data.bundles.get(&("", name)).ok_or_else(|| {
            unusable(&format!(
                "ClusterTrustBundle {name} does not exist, or the cluster does not serve the kind"
            ))
        })?;
        let ClusterTrustBundleSpec {
            trust_bundle,
            validity,
        } = &bundle.spec;
        validity
            .get_or_check(|| pem::check_bundle(trust_bundle.as_bytes()))
            .map_err(|why| unusable(&format!("ClusterTrustBundle {name} {why}")))?;
        Ok(trust_bundle)
    }

    /// Returns namespace and name of a referenced object, if the reference is permitted.
    fn permitted<'s>(
        &'s self,
        spec: &'s ObjectRef,
        wanted: &'static str,
        at: &str,
        reasons: ReferenceReasons,
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
                "kind {kind} of group {group} is not supported; use a {wanted} of the core group"
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

/// Returns the CA bundle in a ConfigMap, or why there is none.
pub(crate) fn ca_of_config_map<'m>(
    map: Option<&'m ConfigMap>,
    namespace: &str,
    name: &str,
) -> Result<&'m str, String> {
    let map = map.ok_or_else(|| {
        format!(
            "ConfigMap {namespace}/{name} does not exist; create it with the CA certificate in \
             ca.crt"
        )
    })?;
    let pem = map
        .data
        .get("ca.crt")
        .ok_or_else(|| format!("ConfigMap {namespace}/{name} has no key ca.crt"))?;
    map.validity
        .get_or_check(|| pem::check_bundle(pem.as_bytes()))
        .map_err(|why| format!("ca.crt of ConfigMap {namespace}/{name} {why}"))?;
    Ok(pem)
}

fn fault(reason: &'static str, at: &str, why: &str) -> Fault {
    Fault {
        reason,
        text: format!("{at}: {why}"),
    }
}

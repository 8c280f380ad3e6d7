//! The labels and annotations of `spec.infrastructure` that the pods of a Gateway get.
//!
//! Whoever can write a Gateway may not have permission to write pods. Annotations with a domain
//! instruct the components that run pods: a network plugin attaches networks, a runtime drops its
//! confinement. Pods therefore only get annotations without a domain, those of [`HARMLESS`], and
//! those of the domains that the class permits. Labels are for selectors, so pods get all but those
//! of [`RESERVED`]. All other objects get everything.
//!
//! Source: GEP-1867; the API limits both to 8 entries.

use std::collections::BTreeMap;

/// Domains whose keys are only read by people and metric scrapers.
const HARMLESS: [&str; 2] = ["app.kubernetes.io", "prometheus.io"];

/// Domains of Kubernetes and of meshes, which act on the labels of pods; including their
/// subdomains.
const RESERVED: [&str; 5] = [
    "kubernetes.io",
    "k8s.io",
    "istio.io",
    "linkerd.io",
    "weft.dev",
];

/// Whether keys are those of labels or of annotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetadataKind {
    Label,
    Annotation,
}

impl MetadataKind {
    /// Returns true if pods get keys of a domain that no class permits.
    fn is_harmless(self, domain: &str) -> bool {
        let is_below = |of: &&str| {
            let rest = domain.strip_suffix(*of);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        HARMLESS.contains(&domain) || (self == Self::Label && !RESERVED.iter().any(is_below))
    }
}

/// A domain such as `example.com`, the part of a key before `/`.
fn is_domain(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(legal)
}

/// Parses domains separated by commas.
pub(crate) fn domains(value: &str) -> Result<Vec<String>, String> {
    let entries = value.split(',').map(str::trim);
    let entries = entries.filter(|entry| !entry.is_empty());
    let checked = entries.map(|entry| match is_domain(entry) {
        true => Ok(entry.to_owned()),
        false => Err(format!("{entry:?} is not a domain such as example.com")),
    });
    checked.collect()
}

/// Returns the entries that pods get, and the keys that they do not get.
pub(crate) fn split_for_pods(
    kind: MetadataKind,
    pairs: &BTreeMap<String, String>,
    permitted: &[String],
) -> (BTreeMap<String, String>, Vec<String>) {
    let mut got = BTreeMap::new();
    let mut kept_off = Vec::new();
    for (key, value) in pairs {
        let on_pods = match key.split_once('/') {
            None => true,
            Some((domain, _)) => {
                kind.is_harmless(domain) || permitted.iter().any(|one| one == domain)
            }
        };
        if on_pods {
            got.insert(key.clone(), value.clone());
        } else {
            kept_off.push(key.clone());
        }
    }
    (got, kept_off)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_harmless_and_permitted_metadata() {
        use MetadataKind::{Annotation, Label};
        for (kind, key, permitted, gets) in [
            (Annotation, "team", &[][..], true),
            (Annotation, "prometheus.io/scrape", &[], true),
            (Annotation, "k8s.v1.cni.cncf.io/networks", &[], false),
            (Annotation, "example.com/team", &[], false),
            (Annotation, "example.com/team", &["example.com"], true),
            (Annotation, "sub.example.com/team", &["example.com"], false),
            (Label, "team", &[], true),
            (Label, "example.com/team", &[], true),
            (Label, "app.kubernetes.io/part-of", &[], true),
            (Label, "node.kubernetes.io/x", &[], false),
            (Label, "sidecar.istio.io/inject", &[], false),
            (
                Label,
                "sidecar.istio.io/inject",
                &["sidecar.istio.io"],
                true,
            ),
            (Label, "notistio.io/inject", &[], true),
        ] {
            let permitted: Vec<String> = permitted.iter().map(|&one| one.to_owned()).collect();
            let pairs = BTreeMap::from([(key.to_owned(), "x".to_owned())]);
            let (got, kept_off) = split_for_pods(kind, &pairs, &permitted);
            assert_eq!(got.contains_key(key), gets, "{kind:?} {key}");
            assert_eq!(kept_off.is_empty(), gets, "{kind:?} {key}");
        }
    }

    #[test]
    fn invalid_domains_are_rejected() {
        assert_eq!(
            domains("a.example, b.example,"),
            Ok(vec!["a.example".to_owned(), "b.example".to_owned()])
        );
        assert!(domains("*").is_err());
        assert!(domains("example.com/x").is_err());
    }
}

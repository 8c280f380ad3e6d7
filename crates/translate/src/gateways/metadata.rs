//! Which labels and annotations of `spec.infrastructure` the pods of a Gateway get.
//!
//! Whoever may write a Gateway may not have been given the right to write pods. Annotations of a domain tell what runs pods
//! what to do: a network plugin attaches networks by them, a runtime drops its confinement. So pods get the annotations
//! without a domain, those of [`HARMLESS`], and those of domains that the class names. Labels are for selectors, and pods get
//! all but those of [`RESERVED`]. All other objects get every one.
//!
//! Source: GEP-1867; the bound of 8 labels and 8 annotations is the API's.

use std::collections::BTreeMap;

/// Keys of these domains are read by people and scrapers alone.
const HARMLESS: [&str; 2] = ["app.kubernetes.io", "prometheus.io"];

/// Of Kubernetes and of meshes, which act on labels of pods; with the domains below them.
const RESERVED: [&str; 5] = [
    "kubernetes.io",
    "k8s.io",
    "istio.io",
    "linkerd.io",
    "weft.dev",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Label,
    Annotation,
}

impl Key {
    /// Whether pods get the keys of a domain that no class names.
    fn is_harmless(self, domain: &str) -> bool {
        let is_below = |of: &&str| {
            let rest = domain.strip_suffix(*of);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        HARMLESS.contains(&domain) || (self == Self::Label && !RESERVED.iter().any(is_below))
    }
}

/// A domain such as `example.com`, which stands before the `/` of a key.
fn is_domain(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    !text.is_empty() && text.len() <= 253 && text.bytes().all(legal)
}

/// Domains, separated by commas.
pub(crate) fn domains(value: &str) -> Result<Vec<String>, String> {
    let entries = value.split(',').map(str::trim);
    let entries = entries.filter(|entry| !entry.is_empty());
    let checked = entries.map(|entry| match is_domain(entry) {
        true => Ok(entry.to_owned()),
        false => Err(format!("{entry:?} is not a domain such as example.com")),
    });
    checked.collect()
}

/// The pairs that pods get, and the keys that they do not get.
pub(crate) fn of_pods(
    kind: Key,
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
    fn pods_get_what_tells_nobody_what_to_do_with_them_or_the_class_permits() {
        use Key::{Annotation, Label};
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
            let (got, kept_off) = of_pods(kind, &pairs, &permitted);
            assert_eq!(got.contains_key(key), gets, "{kind:?} {key}");
            assert_eq!(kept_off.is_empty(), gets, "{kind:?} {key}");
        }
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        assert_eq!(
            domains("a.example, b.example,"),
            Ok(vec!["a.example".to_owned(), "b.example".to_owned()])
        );
        assert!(domains("*").is_err());
        assert!(domains("example.com/x").is_err());
    }
}

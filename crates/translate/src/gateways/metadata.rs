//! Which labels and annotations of `spec.infrastructure` the pods of a Gateway get.
//!
//! Whoever may write a Gateway may not have been given the right to write pods. Keys of a domain mean something to what runs
//! pods: a network plugin attaches networks by them, a runtime drops its confinement, another mesh injects. So pods get the
//! keys without a domain, those of [`HARMLESS`], and those of domains that the class names; all other objects get every key.
//!
//! Source: GEP-1867; the bound of 8 labels and 8 annotations is the API's.

use std::collections::BTreeMap;

/// Keys of these domains are read by people and scrapers alone.
const HARMLESS: [&str; 2] = ["app.kubernetes.io", "prometheus.io"];

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
    pairs: &BTreeMap<String, String>,
    permitted: &[String],
) -> (BTreeMap<String, String>, Vec<String>) {
    let mut got = BTreeMap::new();
    let mut kept_off = Vec::new();
    for (key, value) in pairs {
        let on_pods = match key.split_once('/') {
            None => true,
            Some((domain, _)) => {
                HARMLESS.contains(&domain) || permitted.iter().any(|one| one == domain)
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
    fn pods_get_keys_without_a_domain_harmless_ones_and_those_of_permitted_domains() {
        for (key, permitted, gets) in [
            ("team", &[][..], true),
            ("app.kubernetes.io/part-of", &[], true),
            ("prometheus.io/scrape", &[], true),
            ("k8s.v1.cni.cncf.io/networks", &[], false),
            (
                "container.apparmor.security.beta.kubernetes.io/weft-proxy",
                &[],
                false,
            ),
            ("kubernetes.io/x", &[], false),
            ("example.com/team", &["example.com"], true),
            ("sub.example.com/team", &["example.com"], false),
        ] {
            let permitted: Vec<String> = permitted.iter().map(|&one| one.to_owned()).collect();
            let pairs = BTreeMap::from([(key.to_owned(), "x".to_owned())]);
            let (got, kept_off) = of_pods(&pairs, &permitted);
            assert_eq!(got.contains_key(key), gets, "{key}");
            assert_eq!(kept_off.is_empty(), gets, "{key}");
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

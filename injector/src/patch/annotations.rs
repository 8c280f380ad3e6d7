//! Warns about annotations and labels below `weft.dev/` that have no effect: most likely typing
//! errors.

use std::collections::BTreeMap;

use super::overrides::{
    EXCLUDE_INBOUND, EXCLUDE_OUTBOUND, INIT_RESOURCES, MTLS, MTLS_PORTS, PROXY_RESOURCES,
};
use super::{INJECT, SKIPPED, STATUS};

const PREFIX: &str = "weft.dev/";
/// The annotations of pods and namespaces, apart from resources.
const EITHER: [&str; 7] = [
    "weft.dev/access-log",
    "weft.dev/log-format",
    MTLS,
    "weft.dev/mtls-outbound",
    "weft.dev/outside-grace",
    "weft.dev/proxy-log",
    "weft.dev/proxy-workers",
];
const PODS: [&str; 3] = [EXCLUDE_INBOUND, EXCLUDE_OUTBOUND, MTLS_PORTS];
/// The annotation of namespaces alone, which the controller follows.
const AUTHORIZATION: &str = "weft.dev/authorization-default";
/// Annotations that Weft writes, and the digest of its chart.
const OURS: [&str; 3] = [SKIPPED, STATUS, "weft.dev/config"];
/// The maximum number of warnings.
const MAX_WARNINGS: usize = 8;

fn either() -> impl Iterator<Item = &'static str> {
    let resources = PROXY_RESOURCES.into_iter().chain(INIT_RESOURCES);
    EITHER
        .into_iter()
        .chain(resources.flat_map(|(request, limit)| [request, limit]))
}

/// Returns warnings about a pod's annotations.
pub(super) fn of_pod(annotations: &BTreeMap<String, String>) -> Vec<String> {
    let known: Vec<_> = either().chain(PODS).collect();
    unknown(annotations, &known)
        .map(|name| match name {
            INJECT => format!("{INJECT} is a label; as an annotation of the pod it has no effect"),
            "weft.dev/gateway-routes" => {
                format!("annotation {name} is for Services; on a pod it has no effect")
            }
            AUTHORIZATION => {
                format!("annotation {name} is for namespaces; on a pod it has no effect")
            }
            name => format!(
                "annotation {} has no effect{}",
                cut(name),
                nearest(name, &known)
            ),
        })
        .take(MAX_WARNINGS)
        .collect()
}

/// Returns warnings about a namespace's annotations, for the creators of pods there.
pub(super) fn of_namespace(annotations: &BTreeMap<String, String>) -> Vec<String> {
    let known: Vec<_> = either().chain([AUTHORIZATION]).collect();
    unknown(annotations, &known)
        .map(|name| match name {
            INJECT => {
                format!("{INJECT} is a label; as an annotation of the namespace it has no effect")
            }
            name if PODS.contains(&name) => {
                format!("annotation {name} is for pods; on the namespace it has no effect")
            }
            name => format!(
                "annotation {} of the namespace has no effect{}",
                cut(name),
                nearest(name, &known)
            ),
        })
        .take(MAX_WARNINGS)
        .collect()
}

/// Returns warnings about a pod's labels.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> Vec<String> {
    let known: Vec<_> = either().chain(PODS).collect();
    labels
        .keys()
        .map(String::as_str)
        .filter(|name| known.contains(name))
        .map(|name| format!("{name} is an annotation; as a label of the pod it has no effect"))
        .take(MAX_WARNINGS)
        .collect()
}

fn unknown<'a>(
    annotations: &'a BTreeMap<String, String>,
    known: &[&str],
) -> impl Iterator<Item = &'a str> {
    annotations
        .keys()
        .map(String::as_str)
        .filter(|name| name.starts_with(PREFIX) && !OURS.contains(name))
        .filter(move |name| !known.contains(name))
}

fn cut(name: &str) -> String {
    name.chars().take(64).collect()
}

/// Returns a suggestion: the most similar known name, if one is similar.
fn nearest(name: &str, known: &[&str]) -> String {
    let distance = |known: &str| strsim::damerau_levenshtein(&cut(name), known);
    let nearest = known.iter().min_by_key(|known| distance(known));
    let most = name.len().saturating_sub(PREFIX.len()) / 3;
    match nearest {
        Some(known) if distance(known) <= most => format!("; did you mean {known}?"),
        _ => ": no annotation has this name".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(name: &str) -> Vec<String> {
        of_pod(&BTreeMap::from([(name.to_owned(), String::new())]))
    }

    #[test]
    fn typing_errors_have_a_suggestion() {
        for (slip, meant) in [
            ("weft.dev/acces-log", "did you mean weft.dev/access-log?"),
            ("weft.dev/mtsl", "did you mean weft.dev/mtls?"),
            ("weft.dev/log", "no annotation has this name"),
            (
                "weft.dev/proxy-memory-limits",
                "did you mean weft.dev/proxy-memory-limit?",
            ),
            (
                "weft.dev/exclude-outbound-port",
                "did you mean weft.dev/exclude-outbound-ports?",
            ),
            ("weft.dev/inject", "is a label"),
            ("weft.dev/gateway-routes", "is for Services"),
            (AUTHORIZATION, "is for namespaces"),
            (
                "weft.dev/something-else-entirely",
                "no annotation has this name",
            ),
        ] {
            let warnings = warnings(slip);
            assert!(warnings[0].contains(meant), "{slip}: {warnings:?}");
        }
        for fine in [
            "weft.dev/status",
            "weft.dev/init-cpu",
            "example.org/acces-log",
        ] {
            assert_eq!(warnings(fine), [] as [String; 0]);
        }
    }

    #[test]
    fn annotation_that_the_controller_follows_is_known_on_namespaces() {
        let annotations = BTreeMap::from([(AUTHORIZATION.to_owned(), "deny".to_owned())]);
        assert_eq!(of_namespace(&annotations), [] as [String; 0]);
    }

    #[test]
    fn warnings_are_bounded() {
        let many = (0..50).map(|n| (format!("weft.dev/{n:0>200}"), String::new()));
        let warnings = of_pod(&many.collect());
        assert_eq!(warnings.len(), MAX_WARNINGS);
        assert!(warnings.iter().all(|warning| warning.len() < 256));
    }
}

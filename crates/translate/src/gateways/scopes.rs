//! The namespaces from which routes and ListenerSets may attach.
//!
//! Source: `RouteNamespaces`, `ListenerNamespaces`, `metav1.LabelSelector`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::objects::{FromNamespaces, LabelRequirement, LabelSelector, Namespace};

/// The labels of every namespace, by name.
#[derive(Debug)]
pub(crate) struct Namespaces<'a>(HashMap<&'a str, &'a BTreeMap<String, String>>);

impl<'a> Namespaces<'a> {
    pub(crate) fn new(namespaces: &'a [Arc<Namespace>]) -> Self {
        let labels = namespaces
            .iter()
            .map(|of| (of.metadata.name.as_str(), &of.metadata.labels));
        Self(labels.collect())
    }
}

/// The namespaces from which objects may attach.
#[derive(Debug)]
pub(crate) enum NamespaceScope<'a> {
    All,
    /// The owner's own namespace.
    Same,
    Selector(&'a LabelSelector),
    None,
}

impl<'a> NamespaceScope<'a> {
    /// `absent` is the default. The error has the field path and what is wrong there.
    pub(crate) fn new(
        spec: Option<&'a FromNamespaces>,
        absent: Self,
        at: &str,
    ) -> Result<Self, String> {
        let Some(FromNamespaces { from, selector }) = spec else {
            return Ok(absent);
        };
        match from.as_deref() {
            None => Ok(absent),
            Some("All") => Ok(Self::All),
            Some("Same") => Ok(Self::Same),
            Some("None") => Ok(Self::None),
            Some("Selector") => {
                let selector = selector
                    .as_ref()
                    .ok_or_else(|| format!("{at}.selector is required"))?;
                check(selector).map_err(|why| format!("{at}.selector: {why}"))?;
                Ok(Self::Selector(selector))
            }
            Some(other) => Err(format!(
                "{at}.from: {other:?} is not supported; supported values are All, Selector, Same, \
                 None"
            )),
        }
    }

    /// Returns true if an owner in `own` allows objects in `namespace`.
    pub(crate) fn admits(&self, own: &str, namespace: &str, namespaces: &Namespaces<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Same => own == namespace,
            Self::None => false,
            Self::Selector(selector) => {
                let labels = namespaces.0.get(namespace);
                labels.is_some_and(|labels| selects(selector, labels))
            }
        }
    }

    /// Describes the scope for a message: `from namespaces labelled ...`.
    pub(crate) fn describe(&self, own: &str) -> String {
        match self {
            Self::All => "from all namespaces".to_owned(),
            Self::Same => format!("from namespace {own}"),
            Self::None => "from no namespace".to_owned(),
            Self::Selector(selector) => format!("from namespaces labelled {}", words(selector)),
        }
    }
}

fn words(selector: &LabelSelector) -> String {
    let LabelSelector {
        match_labels,
        match_expressions,
    } = selector;
    let labels = match_labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    let expressions = match_expressions
        .iter()
        .map(|of| format!("{} {} {}", of.key, of.operator, of.values.join(" ")));
    let all: Vec<String> = labels.chain(expressions).collect();
    if all.is_empty() {
        "with any label".to_owned()
    } else {
        all.join(", ")
    }
}

fn check(selector: &LabelSelector) -> Result<(), String> {
    for requirement in &selector.match_expressions {
        let LabelRequirement {
            key,
            operator,
            values,
        } = requirement;
        match operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                return Err(format!("{key}: operator {operator} requires values"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                return Err(format!(
                    "{key}: operator {other:?} is not one of In, NotIn, Exists, DoesNotExist"
                ));
            }
        }
    }
    Ok(())
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let LabelSelector {
        match_labels,
        match_expressions,
    } = selector;
    let label = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    let expression = |requirement: &LabelRequirement| {
        let LabelRequirement {
            key,
            operator,
            values,
        } = requirement;
        let value = labels.get(key);
        match operator.as_str() {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => value.is_none_or(|value| !values.contains(value)),
            "Exists" => value.is_some(),
            _ => value.is_none(),
        }
    };
    match_labels.iter().all(label) && match_expressions.iter().all(expression)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(json: &str) -> LabelSelector {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_selector_requirement_must_match() {
        let labels: BTreeMap<String, String> = [("team", "shop"), ("stage", "prod")]
            .map(|(k, v)| (k.into(), v.into()))
            .into();
        for (json, holds) in [
            (r#"{}"#, true),
            (r#"{"matchLabels": {"team": "shop"}}"#, true),
            (
                r#"{"matchLabels": {"team": "shop", "stage": "test"}}"#,
                false,
            ),
            (
                r#"{"matchExpressions": [{"key": "team", "operator": "In", "values": ["a", "shop"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a", "shop"]}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions": [{"key": "none", "operator": "NotIn", "values": ["a"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "none", "operator": "In", "values": ["a"]}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions": [{"key": "team", "operator": "Exists"}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}"#,
                false,
            ),
            (
                r#"{"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}"#,
                true,
            ),
        ] {
            let selector = selector(json);
            check(&selector).unwrap();
            assert_eq!(selects(&selector, &labels), holds, "{json}");
        }
    }

    #[test]
    fn invalid_selectors_are_rejected() {
        for json in [
            r#"{"matchExpressions": [{"key": "team", "operator": "Like", "values": ["a"]}]}"#,
            r#"{"matchExpressions": [{"key": "team", "operator": "In"}]}"#,
        ] {
            check(&selector(json)).unwrap_err();
        }
    }
}

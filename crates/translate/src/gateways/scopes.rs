//! Whose routes and ListenerSets are let in: by namespace.
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

/// From which namespaces something is let in.
#[derive(Debug)]
pub(crate) enum Scope<'a> {
    All,
    /// Of the owner's own.
    Same,
    Selector(&'a LabelSelector),
    None,
}

impl<'a> Scope<'a> {
    /// Where nothing is said, `absent`. Errors with the place and what is wrong there.
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
                    .ok_or_else(|| format!("{at}.selector is missing"))?;
                check(selector).map_err(|why| format!("{at}.selector: {why}"))?;
                Ok(Self::Selector(selector))
            }
            Some(other) => Err(format!(
                "{at}.from: {other:?} is not supported; supported are All, Selector, Same, None"
            )),
        }
    }

    /// Whether what is in `namespace` is let in by an owner in `own`.
    pub(crate) fn takes(&self, own: &str, namespace: &str, namespaces: &Namespaces<'_>) -> bool {
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

    /// For messages: `of namespaces with the labels ...`.
    pub(crate) fn describe(&self, own: &str) -> String {
        match self {
            Self::All => "of all namespaces".to_owned(),
            Self::Same => format!("of namespace {own}"),
            Self::None => "of no namespace".to_owned(),
            Self::Selector(selector) => format!("of namespaces labelled {}", words(selector)),
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
        "in any way".to_owned()
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
                return Err(format!("{key}: {operator} needs values"));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                return Err(format!(
                    "{key}: operator {other:?} is none of In, NotIn, Exists, DoesNotExist"
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
    fn every_requirement_must_hold() {
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
    fn what_cannot_be_understood_is_refused() {
        for json in [
            r#"{"matchExpressions": [{"key": "team", "operator": "Like", "values": ["a"]}]}"#,
            r#"{"matchExpressions": [{"key": "team", "operator": "In"}]}"#,
        ] {
            check(&selector(json)).unwrap_err();
        }
    }
}

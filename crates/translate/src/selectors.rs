//! Label selectors: whether one is valid, what it selects, and how messages describe it.
//!
//! Source: `metav1.LabelSelector`.

use std::collections::BTreeMap;

use crate::objects::{LabelRequirement, LabelSelector};

/// Describes a selector for a message: `team=shop, stage In prod test`.
pub(crate) fn words(selector: &LabelSelector) -> String {
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

/// Returns what is wrong with a selector.
pub(crate) fn check(selector: &LabelSelector) -> Result<(), String> {
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

/// Returns true if a valid selector selects an object with these labels.
pub(crate) fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
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

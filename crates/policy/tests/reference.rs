//! `docs/reference/policies.md` lists the fields of the types. `UPDATE_GOLDEN=1` writes it.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its own data are wrong"
)]

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use similar::TextDiff;

const INTRODUCTION: &str = "\
# Policies

<!-- Generated from crates/policy by `UPDATE_GOLDEN=1 cargo test -p weft-policy`. -->
The kinds of the API group `policy.weft.dev`, version `v1alpha1`, with all fields. Their definitions
are in a chart of their own, `charts/weft-crds`. [Authorize calls](../howto/authorize.md) shows how
they are used, [statuses](statuses.md#authorization-policies) lists what the controller reports, and
[limits](limits.md#authorization-policies) their sizes.

An unknown field makes a policy invalid: it denies everything to its targets until it is corrected.

## How a request is decided

At the server's proxy, and at each Gateway's listener and route, the policies of the cluster are
decided before those of the namespace. In each of the two:

1. An invalid policy denies the request.
2. A `DENY` policy that matches denies it.
3. If there are `ALLOW` policies for the port, one of them has to match.

Where neither the cluster nor the namespace has `ALLOW` policies for the port, the default decides
([`weft.dev/authorization-default`](labels-and-annotations.md#weftdevauthorization-default)).
`AUDIT` policies only count and log. Rules add up; no policy replaces another. Requests of the
kubelet that the pod declares as probes, and Weft's own ports, always pass.

Before all of this, AuthenticationPolicies verify the token of the request: each that applies at the
place has to pass ([Require tokens](../howto/authenticate.md)).
";

#[test]
fn reference_lists_every_field() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/policies.md");
    let mut wanted = INTRODUCTION.to_owned();
    let mut known: Vec<(String, String, Value)> = Vec::new();
    for definition in weft_policy::definitions() {
        let definition = serde_json::to_value(definition).unwrap();
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let about = text(&schema["description"]);
        write!(wanted, "\n## {kind}\n\n{about}\n\n").unwrap();
        wanted += "| field | type | meaning |\n|---|---|---|\n";
        fields(
            &schema["properties"]["spec"],
            "spec",
            kind,
            &mut known,
            &mut wanted,
        );
        let rules = schema["properties"]["spec"]["x-kubernetes-validations"].as_array();
        for rule in rules.into_iter().flatten() {
            writeln!(
                wanted,
                "\nThe API server checks: {}.",
                text(&rule["message"])
            )
            .unwrap();
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let diff = TextDiff::from_lines(&found, &wanted);
    assert!(
        found == wanted,
        "UPDATE_GOLDEN=1 writes it:\n{}",
        diff.unified_diff()
    );
}

/// Lists the fields below a schema. Fields of an object that was listed before are not repeated.
fn fields(
    schema: &Value,
    path: &str,
    kind: &str,
    known: &mut Vec<(String, String, Value)>,
    to: &mut String,
) {
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    let required = schema["required"].as_array();
    for (name, field) in properties {
        let mut path = format!("{path}.{name}");
        let is_required = required.is_some_and(|all| all.iter().any(|of| of == name));
        let inner = if field["type"] == "array" {
            path += "[]";
            &field["items"]
        } else {
            field
        };
        let mut meaning = text(&field["description"]);
        let nested = inner["properties"].is_object();
        let content = without_description(inner);
        let same = known.iter().find(|(_, _, schema)| *schema == content);
        if let (Some((of, at, _)), true) = (same, nested) {
            meaning += &match of == kind {
                true => format!(". Fields as of `{at}`"),
                false => format!(". Fields as of {of}"),
            };
            row(to, &path, &of_type(field, inner, is_required), &meaning);
            continue;
        }
        row(to, &path, &of_type(field, inner, is_required), &meaning);
        known.push((kind.to_owned(), path.clone(), content));
        fields(inner, &path, kind, known, to);
    }
}

fn without_description(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(fields) = schema.as_object_mut() {
        fields.remove("description");
    }
    schema
}

fn row(to: &mut String, path: &str, of_type: &str, meaning: &str) {
    let meaning = meaning.replace('|', "\\|");
    writeln!(to, "| `{path}` | {of_type} | {meaning} |").unwrap();
}

/// Describes type, bounds and default: `list of objects, 1 to 16, required`.
fn of_type(field: &Value, inner: &Value, required: bool) -> String {
    let mut words = Vec::new();
    let one = inner["type"].as_str().unwrap_or("object");
    let values = inner["enum"].as_array();
    let one = match values {
        Some(values) => {
            let values: Vec<String> = values
                .iter()
                .filter_map(Value::as_str)
                .map(|value| format!("`{value}`"))
                .collect();
            values.join(", ")
        }
        None => one.to_owned(),
    };
    if field["type"] == "array" {
        let plural = if values.is_some() { "" } else { "s" };
        words.push(format!("list of {one}{plural}"));
        words.extend(range(&field["minItems"], &field["maxItems"], "entries"));
    } else {
        words.push(one);
    }
    words.extend(range(
        &inner["minLength"],
        &inner["maxLength"],
        "characters",
    ));
    words.extend(range(&inner["minimum"], &inner["maximum"], ""));
    if let Some(default) = field["default"].as_str() {
        words.push(format!("default `{default}`"));
    }
    if required {
        words.push("required".to_owned());
    }
    words.join("; ")
}

fn range(least: &Value, most: &Value, of: &str) -> Option<String> {
    let number = |value: &Value| value.as_f64();
    let text = match (number(least), number(most)) {
        (None, None) => return None,
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("at most {most}"),
        (Some(least), Some(most)) => format!("{least} to {most}"),
    };
    Some(format!("{text} {of}").trim_end().to_owned())
}

/// The first paragraph on one line, without a full stop.
fn text(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
    line.trim_end_matches('.').to_owned()
}

//! The definitions in `charts/weft-crds` are those of the types. `UPDATE_GOLDEN=1` writes them.

use std::fs;
use std::path::Path;

use similar::TextDiff;

const HEADER: &str =
    "# Generated from crates/policy by `UPDATE_GOLDEN=1 cargo test -p weft-policy`.\n";

/// The API server rejects definitions with these.
#[test]
fn definitions_are_structural() {
    for definition in weft_policy::definitions() {
        let yaml = serde_norway::to_string(&definition).unwrap();
        for refused in ["additionalProperties: false", "$ref:", "anyOf:"] {
            let name = &definition.spec.names.kind;
            assert!(!yaml.contains(refused), "{name} has {refused}");
        }
    }
}

#[test]
fn definitions_in_chart_match_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/weft-crds/templates");
    let mut differences = String::new();
    for definition in weft_policy::definitions() {
        let mut value = serde_json::to_value(&definition).unwrap();
        let annotations = serde_json::json!({
            "helm.sh/resource-policy": "keep",
        });
        value["metadata"]["annotations"] = annotations;
        let yaml = serde_norway::to_string(&value).unwrap();
        let plural = &definition.spec.names.plural;
        let path = folder.join(format!("{plural}.yaml"));
        let wanted = format!("{HEADER}{yaml}");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &wanted).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        if found != wanted {
            let diff = TextDiff::from_lines(&found, &wanted);
            differences += &diff.unified_diff().to_string();
        }
    }
    assert!(
        differences.is_empty(),
        "UPDATE_GOLDEN=1 writes them:\n{differences}"
    );
}

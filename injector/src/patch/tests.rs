//! Golden files: each of `tests/golden/*.yaml` has a namespace and a pod, and after `---` the
//! decision. `UPDATE_GOLDEN=1` writes the second part again, for `git diff` to judge.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::*;
use crate::settings::tests::settings;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    namespace: Namespace,
    #[serde(default)]
    mesh: Mesh,
    pod: Value,
}

/// Settings that differ from the chart's defaults.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mesh {
    mtls_floor: Option<String>,
    pull_secrets: Vec<String>,
    init_resources: Option<Value>,
    /// With probes from the node only.
    probe_networks: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Namespace {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// The pod as it is then; absent when it stays what it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Value>,
}

impl Given {
    fn decide(&self, pod: &Value) -> Decision {
        let mut settings = settings();
        settings.pull_secrets = self.mesh.pull_secrets.clone();
        if let Some(floor) = &self.mesh.mtls_floor {
            settings.mtls_floor = floor.parse().unwrap();
        }
        if let Some(networks) = &self.mesh.probe_networks {
            settings.probe_sources = "node".parse().unwrap();
            settings.probe_networks = networks.parse().unwrap();
        }
        if let Some(resources) = &self.mesh.init_resources {
            settings.init_resources = resources.to_string().parse().unwrap();
        }
        patch(
            pod,
            &Context {
                namespace: &self.namespace.name,
                namespace_labels: &self.namespace.labels,
                namespace_annotations: &self.namespace.annotations,
                settings: &settings,
            },
        )
    }
}

fn outcome(given: &Given, path: &Path) -> Wanted {
    let Decision { outcome, warnings } = given.decide(&given.pod);
    let apply = |operations: &json_patch::Patch| {
        let mut pod = given.pod.clone();
        json_patch::patch(&mut pod, operations)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (pod != given.pod).then_some(pod)
    };
    match outcome {
        Outcome::Inject(operations) => {
            let pod = apply(&operations);
            let again = given.decide(pod.as_ref().unwrap_or(&given.pod));
            assert!(
                matches!(&again.outcome, Outcome::Skip { notes, .. } if notes.0.is_empty()),
                "{}: patched a second time: {again:?}",
                path.display()
            );
            Wanted {
                pod,
                warnings,
                ..Wanted::default()
            }
        }
        Outcome::Skip { reason, notes } => Wanted {
            skipped: Some(reason),
            pod: apply(&notes),
            warnings,
            ..Wanted::default()
        },
        Outcome::Deny(reason) => Wanted {
            refused: Some(reason),
            warnings,
            ..Wanted::default()
        },
    }
}

#[test]
fn golden_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() > 10, "the golden files are missing");
    let mut wrong = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let (given_text, wanted_text) = text.split_once("\n---\n").unwrap_or((text.trim_end(), ""));
        let given: Given = serde_norway::from_str(given_text)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let is = outcome(&given, &path);
        if update {
            let is = serde_norway::to_string(&is).unwrap();
            fs::write(&path, format!("{given_text}\n---\n{is}")).unwrap();
            continue;
        }
        let wanted: Wanted = serde_norway::from_str(wanted_text)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        if is != wanted {
            let is = serde_norway::to_string(&is).unwrap();
            wrong.push(format!("{}:\n{is}", path.display()));
        }
    }
    assert!(
        wrong.is_empty(),
        "these are not what their files say:\n{}",
        wrong.join("\n")
    );
}

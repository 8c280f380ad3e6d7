//! Golden files: objects, and the resulting views and statuses, in one file of `tests/golden/`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p weft-translate` writes the results to the files; review the diff.

use std::path::{Path, PathBuf};

use crate::{input, view};
use similar::TextDiff;
use weft_ir::{Mode, TrustDomain};
use weft_translate::{EndpointRules, Objects, Settings, Translator, provisions, translate};

/// Separates input and expected output.
pub(crate) const DIVIDER: &str = "--- # expected\n";

/// The controller of the GatewayClasses in the files.
pub(crate) const CONTROLLER: &str = "weft.dev/gateway-controller";

pub(crate) fn settings() -> Settings {
    Settings {
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
        mode: Mode::Permissive,
        mode_floor: Mode::Permissive,
        controller_name: "weft.dev/mesh-controller".to_owned(),
        gateway_controller_name: CONTROLLER.to_owned(),
        endpoints: EndpointRules::default(),
    }
}

pub(crate) fn golden_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Returns the objects of the kinds that decide the infrastructure of Gateways.
pub(crate) fn seen_by_provisioner(objects: &Objects) -> Objects {
    Objects {
        namespaces: objects.namespaces.clone(),
        gateway_classes: objects.gateway_classes.clone(),
        gateways: objects.gateways.clone(),
        listener_sets: objects.listener_sets.clone(),
        reference_grants: objects.reference_grants.clone(),
        config_maps: objects.config_maps.clone(),
        cluster_trust_bundles: objects.cluster_trust_bundles.clone(),
        ..Objects::default()
    }
}

/// Returns the result for the file's objects, and checks that it does not depend on their order.
fn outcome(input: &str) -> String {
    let mut documents = input::documents(input);
    let (objects, ask) = input::objects(&documents);
    let translation = translate(&objects, &settings());
    let of_provisioner = provisions(&seen_by_provisioner(&objects), CONTROLLER);
    assert_eq!(of_provisioner, translation.provisions);
    let outcome = view::translation(&translation, &ask);
    documents.reverse();
    let (reversed, ask) = input::objects(&documents);
    let again = view::translation(&translate(&reversed, &settings()), &ask);
    assert_eq!(outcome, again, "the order of objects must mean nothing");
    outcome
}

/// Returns the result after adding the file's objects one by one.
fn outcome_of_one_by_one(input: &str) -> String {
    let (mut translator, mut objects) = (Translator::new(settings()), Objects::default());
    let (mut last, mut ask) = (translator.translate(&objects), input::Ask::default());
    for document in input::documents(input) {
        let kind = document["kind"].as_str().unwrap();
        if kind == "Ask" {
            ask = serde_json::from_value(document).unwrap();
        } else {
            input::add(&mut objects, kind, &document).unwrap();
            last = translator.translate(&objects);
        }
    }
    view::translation(&last, &ask)
}

#[test]
pub(crate) fn golden_files_match() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut failed = Vec::new();
    let files = golden_files();
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (input, expected) = text.split_once(DIVIDER).unwrap_or((&text, ""));
        let outcome = outcome(input);
        assert_eq!(outcome, outcome_of_one_by_one(input), "{}", file.display());
        if outcome == expected {
            continue;
        }
        if update {
            std::fs::write(&file, format!("{input}{DIVIDER}{outcome}")).unwrap();
            continue;
        }
        let diff = TextDiff::from_lines(expected, &outcome);
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        println!("{}", diff.unified_diff().header(&name, "what came out"));
        failed.push(name);
    }
    assert!(
        failed.is_empty(),
        "differ (see above): {}",
        failed.join(", ")
    );
}

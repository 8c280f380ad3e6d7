//! Golden files: objects, and the resulting views and statuses, in one file of `tests/golden/`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p weft-translate` writes the results to the files; review the diff.

use similar::TextDiff;
use weft_translate::{Objects, Translator, provisions, translate};

use crate::input::{CONTROLLER, DIVIDER, golden_files, settings};
use crate::{input, view};

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
    let (objects, queries) = input::objects(&documents);
    let translation = translate(&objects, &settings());
    let of_provisioner = provisions(&seen_by_provisioner(&objects), CONTROLLER);
    assert_eq!(of_provisioner, translation.provisions);
    let outcome = view::translation(&translation, &queries);
    documents.reverse();
    let (reversed, queries) = input::objects(&documents);
    let again = view::translation(&translate(&reversed, &settings()), &queries);
    assert_eq!(outcome, again, "the order of objects must mean nothing");
    outcome
}

/// Returns the result after adding the file's objects one by one.
fn outcome_of_one_by_one(input: &str) -> String {
    let (mut translator, mut objects) = (Translator::new(settings()), Objects::default());
    let (mut last, mut queries) = (translator.translate(&objects), input::Queries::default());
    for document in input::documents(input) {
        let kind = document["kind"].as_str().unwrap();
        if kind == "Queries" {
            queries = serde_json::from_value(document).unwrap();
        } else {
            input::add(&mut objects, kind, &document).unwrap();
            last = translator.translate(&objects);
        }
    }
    view::translation(&last, &queries)
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

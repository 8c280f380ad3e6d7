//! Kubernetes objects to configuration and statuses.
//!
//! The input is read as a list of changes to the objects of a golden file.

#[allow(dead_code, reason = "the tests of weft-translate use the rest")]
#[path = "../../crates/translate/tests/suite/consistency.rs"]
mod consistency;
#[allow(dead_code, reason = "the tests of weft-translate use the rest")]
#[path = "../../crates/translate/tests/suite/input.rs"]
mod input;

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use serde_json::Value;
use weft_api::Resource;
use weft_translate::{Objects, Translator, translate};

use crate::resource::assert_round_trip;
use consistency::{Answers, ODD_TEXTS, place};
use input::{FILES, settings};

/// Golden files and certificates.
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/translate/tests");

const MAX_EDITS: usize = 12;

/// Whatever the objects contain, translation results in statuses and in a mesh that proxies can
/// read. The result depends neither on the order of the objects nor on earlier translations.
pub fn check(bytes: &[u8]) {
    let _ = check_edits(&mut Unstructured::new(bytes));
}

/// Errors if the input is too short.
fn check_edits(input: &mut Unstructured<'_>) -> Result<()> {
    let mut documents = input.choose(&FILES)?.clone();
    let before = objects(&documents);
    for _ in 0..MAX_EDITS {
        if input.is_empty() {
            break;
        }
        edit(input, &mut documents)?;
    }
    let documents = distinct(documents);
    let all = objects(&documents);
    let translation = translate(&all, &settings());
    let answers = consistency::check(&all, &translation);
    if documents.iter().all(is_named) {
        assert_readable(answers);
    }

    let mut translator = Translator::new(settings());
    translator.translate(&before);
    assert!(
        translator.translate(&all) == translation,
        "earlier objects matter: {documents:?}"
    );

    let reversed: Vec<Value> = documents.iter().rev().cloned().collect();
    let again = translate(&objects(&reversed), &settings());
    assert!(
        again == translation,
        "the order of objects matters: {documents:?}"
    );
    Ok(())
}

/// Objects that cannot be read are left out.
fn objects(documents: &[Value]) -> Objects {
    let mut objects = Objects::default();
    for document in documents {
        if let Some(kind) = document["kind"].as_str() {
            let _ = input::add(&mut objects, kind, document);
        }
    }
    objects
}

/// Returns true if the API server would accept the object's name and namespace, on which names in
/// the configuration of proxies are based.
fn is_named(document: &Value) -> bool {
    const CLUSTER_SCOPED: [&str; 4] = ["ClusterTrustBundle", "GatewayClass", "Namespace", "Node"];
    let known =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    let valid = |text: &Value| {
        let text = text.as_str().unwrap_or_default();
        (1..=63).contains(&text.len()) && text.bytes().all(known)
    };
    let (kind, meta) = (&document["kind"], &document["metadata"]);
    let cluster_scoped = CLUSTER_SCOPED.iter().any(|known| kind == known);
    valid(&meta["name"]) && (cluster_scoped || valid(&meta["namespace"]))
}

/// Keeps the last of the objects of the same kind and name.
fn distinct(documents: Vec<Value>) -> Vec<Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let key = |of: &Value| {
        let meta = &of["metadata"];
        [&of["kind"], &meta["namespace"], &meta["name"]].map(text)
    };
    let all: BTreeMap<[String; 3], Value> =
        documents.into_iter().map(|of| (key(&of), of)).collect();
    all.into_values().collect()
}

/// Adds, removes or changes an object.
fn edit(input: &mut Unstructured<'_>, documents: &mut Vec<Value>) -> Result<()> {
    if documents.is_empty() {
        documents.push(golden_object(input)?);
        return Ok(());
    }
    let which = input.choose_index(documents.len())?;
    match input.int_in_range(0..=7)? {
        0 => {
            documents.swap_remove(which);
        }
        1 => documents.push(golden_object(input)?),
        kind => {
            let value = value(input, kind, &documents[which])?;
            let document = &mut documents[which];
            // The kind decides how an object is read; the API server keeps them apart.
            let kind = document["kind"].clone();
            *place(document, input.arbitrary::<u16>()?.into()) = value;
            if document.is_object() {
                document["kind"] = kind;
            }
        }
    }
    Ok(())
}

/// A value to put into a document: an odd one, or a part of this or another object.
fn value(input: &mut Unstructured<'_>, kind: u8, document: &Value) -> Result<Value> {
    let mut from = match kind {
        2 => return Ok(Value::from(*input.choose(&ODD_TEXTS)?)),
        3 => return Ok(Value::from(input.arbitrary::<&str>()?)),
        4 => return odd_value(input),
        5 => document.clone(),
        _ => golden_object(input)?,
    };
    Ok(place(&mut from, input.arbitrary::<u16>()?.into()).clone())
}

/// An object of any golden file.
fn golden_object(input: &mut Unstructured<'_>) -> Result<Value> {
    let file = input.choose(&FILES)?;
    Ok(input.choose(file)?.clone())
}

fn odd_value(input: &mut Unstructured<'_>) -> Result<Value> {
    Ok(match input.int_in_range(0..=6)? {
        0 => Value::Null,
        1 => Value::from(input.arbitrary::<bool>()?),
        2 => Value::from(input.arbitrary::<i64>()?),
        3 => Value::from(input.int_in_range(-1..=65_536_i64)?),
        4 => Value::from(input.arbitrary::<f64>()?),
        5 => Value::Array(vec![Value::Null, Value::from("x")]),
        _ => Value::Object(serde_json::Map::new()),
    })
}

/// Panics if a proxy would reject its configuration, or decode something else.
fn assert_readable(answers: Answers) {
    let Answers {
        workloads,
        destinations,
        endpoints,
        gateways,
        authorizations,
    } = answers;
    for of in authorizations {
        assert_round_trip(&Resource::Authorization((*of).clone()));
    }
    for workload in workloads {
        assert_round_trip(&Resource::Workload((*workload).clone()));
    }
    for destination in destinations {
        assert_round_trip(&Resource::Destination(destination));
    }
    for set in endpoints {
        assert_round_trip(&Resource::Endpoints((*set).clone()));
    }
    for view in gateways {
        assert_round_trip(&Resource::Gateway((*view.gateway).clone()));
        for port in &view.ports {
            assert_round_trip(&Resource::Port((**port).clone()));
        }
    }
}

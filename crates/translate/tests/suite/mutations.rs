//! Whatever the objects contain, translation results in a mesh: the objects of the golden files,
//! with values exchanged.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use weft_translate::{Condition, Mesh, Objects, Translation, translate};

use crate::golden::{DIVIDER, golden_files, settings};
use crate::input;

/// The objects of each golden file.
pub(crate) static FILES: LazyLock<Vec<Vec<Value>>> = LazyLock::new(|| {
    let read = |file| {
        let text = std::fs::read_to_string(file).unwrap();
        let input = text.split_once(DIVIDER).map_or(&*text, |(input, _)| input);
        let mut documents = input::documents(input);
        documents.retain(|document| document["kind"] != "Ask");
        documents
    };
    golden_files().into_iter().map(read).collect()
});

/// The objects of all golden files.
static DOCUMENTS: LazyLock<Vec<Value>> = LazyLock::new(|| FILES.concat());

/// Values of unexpected types and content.
pub(crate) fn odd_value() -> impl Strategy<Value = Value> {
    let texts = [
        "",
        "/",
        "//",
        "(",
        "[^",
        "a{9999}{9999}",
        "None",
        "RegularExpression",
        "*",
        "é\u{0}\n",
        "..",
        "::1",
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0), Just(-1), Just(65_536), any::<i64>()].prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        proptest::sample::select(texts.to_vec()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null, 1, "x", {}, []])),
        Just(json!({"name": "a", "type": "Exact", "value": "/"})),
    ]
}

/// Returns the `n`th value of the tree in depth-first order.
pub(crate) fn place(tree: &mut Value, n: usize) -> &mut Value {
    let mut left = n % count(tree).max(1);
    let mut at = tree;
    loop {
        if left == 0 {
            return at;
        }
        left -= 1;
        let children: Vec<&mut Value> = match at {
            Value::Array(entries) => entries.iter_mut().collect(),
            Value::Object(fields) => fields.values_mut().collect(),
            _ => unreachable!("a leaf counts as one"),
        };
        let mut next = None;
        for child in children {
            let size = count(child);
            if left < size {
                next = Some(child);
                break;
            }
            left -= size;
        }
        at = next.expect("the count holds");
    }
}

fn count(tree: &Value) -> usize {
    1 + match tree {
        Value::Array(entries) => entries.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum::<usize>(),
        _ => 0,
    }
}

/// Looks up every Service and pod address for clients of every namespace.
fn ask_everything(objects: &Objects, mesh: &Mesh) {
    for service in &objects.services {
        for address in &service.spec.cluster_ips {
            let Ok(ip) = address.parse() else { continue };
            for port in [80, 443, 7070, 8080] {
                for namespace in ["shop", "web", ""] {
                    let answer = mesh.destination(std::net::SocketAddr::new(ip, port), namespace);
                    for id in Mesh::referenced(&answer) {
                        assert!(mesh.endpoints(&id, "").is_some(), "{id} is referred to");
                    }
                }
            }
        }
    }
}

fn is_custom(kind: &str) -> bool {
    let gateways = [
        "GatewayClass",
        "Gateway",
        "ListenerSet",
        "ReferenceGrant",
        "BackendTLSPolicy",
    ];
    kind.ends_with("Route") || gateways.contains(&kind)
}

/// Checks that the status of each Gateway is complete, and that its configuration can be read.
fn ask_gateways(translation: &Translation) {
    let kinds = |conditions: &[Condition]| {
        let kinds = conditions.iter().map(|of| of.kind.clone());
        kinds.collect::<Vec<String>>()
    };
    for status in &translation.gateways {
        assert_eq!(
            &kinds(&status.conditions)[..3],
            &["Accepted", "Programmed", "ResolvedRefs"]
        );
        for listener in &status.listeners {
            let whole = ["Accepted", "Programmed", "ResolvedRefs", "Conflicted"];
            assert_eq!(&kinds(&listener.conditions)[..4], &whole);
        }
        let view = translation.mesh.gateway(&status.id).expect("of ours");
        for id in view.references() {
            let set = translation.mesh.gateway_endpoints(&id, "");
            assert!(set.is_some(), "{id} is referred to");
        }
        let mut sockets: Vec<_> = view
            .ports
            .iter()
            .map(|of| (of.transport(), of.port))
            .collect();
        let all = sockets.len();
        sockets.dedup();
        assert_eq!(sockets.len(), all, "each port once");
    }
    for status in &translation.listener_sets {
        assert_eq!(kinds(&status.conditions), ["Accepted", "Programmed"]);
    }
    for status in &translation.policies {
        assert!((1..=16).contains(&status.ancestors.len()));
    }
    for provision in &translation.provisions {
        assert!(!provision.service.ports.is_empty());
        assert!(provision.name.len() <= 63);
    }
    // Keys must not appear in logs.
    assert!(!format!("{translation:?}").contains("PRIVATE"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_object_content_panics(
        edits in prop::collection::vec((any::<Index>(), any::<usize>(), odd_value()), 1..12),
    ) {
        let mut documents = DOCUMENTS.clone();
        let kinds: Vec<String> =
            documents.iter().map(|of| of["kind"].as_str().unwrap().to_owned()).collect();
        for (which, where_, value) in edits {
            let which = which.index(documents.len());
            *place(&mut documents[which], where_) = value;
        }
        let mut objects = Objects::default();
        for (kind, document) in kinds.iter().zip(&documents) {
            let read = input::add(&mut objects, kind, document);
            // The API server only validates the metadata of custom resources.
            if is_custom(kind) && document["metadata"]["name"].is_string() {
                let sound = serde_json::from_value::<weft_translate::objects::Meta>(document["metadata"].clone());
                prop_assert_eq!(read.is_ok(), sound.is_ok(), "{}", document);
            }
        }
        let translation = translate(&objects, &settings());
        ask_everything(&objects, &translation.mesh);
        ask_gateways(&translation);
        for status in &translation.statuses {
            prop_assert!(!status.parents.is_empty());
            for parent in &status.parents {
                let kinds: Vec<&str> = parent.conditions.iter().map(|of| of.kind.as_str()).collect();
                prop_assert_eq!(&kinds[..2], &["Accepted", "ResolvedRefs"]);
            }
        }
    }
}

//! Whatever the objects contain, translation results in a mesh: the objects of the golden files,
//! with values exchanged.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use weft_translate::{Objects, translate};

use crate::consistency::{self, ODD_TEXTS, place};
use crate::input::{self, FILES, settings};

/// The objects of all golden files.
static DOCUMENTS: LazyLock<Vec<Value>> = LazyLock::new(|| FILES.concat());

/// Values of unexpected types and content.
pub(crate) fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0), Just(-1), Just(65_536), any::<i64>()].prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        proptest::sample::select(ODD_TEXTS.to_vec()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([null, 1, "x", {}, []])),
        Just(json!({"name": "a", "type": "Exact", "value": "/"})),
    ]
}

fn is_custom(kind: &str) -> bool {
    let gateways = [
        "GatewayClass",
        "Gateway",
        "ListenerSet",
        "ReferenceGrant",
        "BackendTLSPolicy",
        "AuthorizationPolicy",
        "TrafficPolicy",
        "FaultFilter",
        "ClusterAuthorizationPolicy",
        "AuthenticationPolicy",
        "FetchedKeys",
    ];
    kind.ends_with("Route") || gateways.contains(&kind)
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
        consistency::check(&objects, &translate(&objects, &settings()));
    }
}

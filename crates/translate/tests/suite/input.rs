//! Reads objects from a stream of YAML documents, with one document of kind `Queries`: the queries
//! of the test to the mesh. Also the objects of the golden files.
//!
//! The parent module has the path of `crates/translate/tests` as `TESTS`: `fuzz/src/translate.rs`
//! contains this file as well.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use serde::Deserialize;
use serde_json::Value;
use weft_ir::{DefaultAuthorization, Mode, TrustDomain};
use weft_translate::objects::Secret;
use weft_translate::{EndpointRules, Objects, Settings};

use super::TESTS;

/// Separates input and expected output of a golden file.
pub(crate) const DIVIDER: &str = "--- # expected\n";

/// The controller of the GatewayClasses in the golden files.
pub(crate) const CONTROLLER: &str = "weft.dev/gateway-controller";

/// The objects of each golden file.
pub(crate) static FILES: LazyLock<Vec<Vec<Value>>> = LazyLock::new(|| {
    let read = |file| {
        let text = std::fs::read_to_string(file).unwrap();
        let input = text.split_once(DIVIDER).map_or(&*text, |(input, _)| input);
        let mut documents = documents(input);
        documents.retain(|document| document["kind"] != "Queries");
        documents
    };
    golden_files().into_iter().map(read).collect()
});

pub(crate) fn settings() -> Settings {
    Settings {
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
        mode: Mode::Permissive,
        mode_floor: Mode::Permissive,
        authorization: DefaultAuthorization::Allow,
        authorization_floor: DefaultAuthorization::Allow,
        controller_name: "weft.dev/mesh-controller".to_owned(),
        gateway_controller_name: CONTROLLER.to_owned(),
        endpoints: EndpointRules::default(),
        namespace: "weft-system".to_owned(),
    }
}

pub(crate) fn golden_files() -> Vec<PathBuf> {
    let folder = Path::new(TESTS).join("golden");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// The queries to the mesh.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Queries {
    pub(crate) kind: String,
    /// `10.96.0.1:80 from shop`.
    pub(crate) destinations: Vec<String>,
    /// `shop/pod`.
    pub(crate) workloads: Vec<String>,
    /// `shop/reviews:80`, in addition to those that the destinations refer to.
    pub(crate) endpoints: Vec<String>,
    /// `edge/public`.
    pub(crate) gateways: Vec<String>,
    /// Pods, `shop/pod`, whose proxies' policies are shown.
    pub(crate) authorizations: Vec<String>,
    /// The nodes of the clients that see the endpoints; without any, clients on an unknown node.
    pub(crate) nodes: Vec<String>,
}

pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_norway::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("a YAML document"))
        .filter(|document| !document.is_null())
        .map(|mut document| {
            fill_in(&mut document);
            document
        })
        .collect()
}

/// In the data of Secrets, ConfigMaps and ClusterTrustBundles, `@FILE` is replaced by a file of
/// `tests/pki/`, and `@FILE+FILE` by two.
fn fill_in(document: &mut Value) {
    let secret = matches!(document["kind"].as_str(), Some("Secret" | "DeletedSecret"));
    let field = match document["kind"].as_str() {
        Some("ClusterTrustBundle") => "spec",
        _ => "data",
    };
    let Some(data) = document.get_mut(field).and_then(Value::as_object_mut) else {
        return;
    };
    for value in data.values_mut() {
        let Some(files) = value.as_str().and_then(|text| text.strip_prefix('@')) else {
            continue;
        };
        let folder = Path::new(TESTS).join("pki");
        let texts = files
            .split('+')
            .map(|file| std::fs::read_to_string(folder.join(file)));
        let text: String = texts
            .map(|text| text.expect("a file of tests/pki"))
            .collect();
        *value = Value::from(if secret { STANDARD.encode(text) } else { text });
    }
}

/// Panics on an unknown kind: a golden file with a typo would test nothing.
pub(crate) fn objects(documents: &[Value]) -> (Objects, Queries) {
    let mut objects = Objects::default();
    let mut queries = Queries::default();
    for document in documents {
        let kind = document["kind"].as_str().expect("kind");
        if kind == "Queries" {
            queries = serde_json::from_value(document.clone()).expect("Queries");
        } else {
            add(&mut objects, kind, document).unwrap_or_else(|error| panic!("{kind}: {error}"));
        }
    }
    (objects, queries)
}

/// Returns an error if the object cannot be read.
pub(crate) fn add(objects: &mut Objects, kind: &str, document: &Value) -> serde_json::Result<()> {
    fn read<T: for<'de> Deserialize<'de>>(document: &Value) -> serde_json::Result<Arc<T>> {
        serde_json::from_value(document.clone()).map(Arc::new)
    }
    match kind {
        "Service" => objects.services.push(read(document)?),
        "ServiceImport" => objects
            .service_imports
            .get_or_insert_default()
            .push(read(document)?),
        "EndpointSlice" => objects.endpoint_slices.push(read(document)?),
        "Pod" => objects.pods.push(read(document)?),
        "Namespace" => objects.namespaces.push(read(document)?),
        "Node" => objects.nodes.push(read(document)?),
        "HTTPRoute" => objects.http_routes.push(read(document)?),
        "GRPCRoute" => objects.grpc_routes.push(read(document)?),
        "TLSRoute" => objects.tls_routes.push(read(document)?),
        "TCPRoute" => objects.tcp_routes.push(read(document)?),
        "UDPRoute" => objects.udp_routes.push(read(document)?),
        "GatewayClass" => objects.gateway_classes.push(read(document)?),
        "Gateway" => objects.gateways.push(read(document)?),
        "ListenerSet" => objects.listener_sets.push(read(document)?),
        "ReferenceGrant" => objects.reference_grants.push(read(document)?),
        "BackendTLSPolicy" => objects.backend_tls_policies.push(read(document)?),
        "FaultFilter" => objects.fault_filters.push(read(document)?),
        "XBackendTrafficPolicy" => objects.backend_traffic_policies.push(read(document)?),
        "TrafficPolicy" => objects.traffic_policies.push(read(document)?),
        "AuthorizationPolicy" => objects.authorization_policies.push(read(document)?),
        "ClusterAuthorizationPolicy" => {
            objects.cluster_authorization_policies.push(read(document)?)
        }
        "AuthenticationPolicy" => objects.authentication_policies.push(read(document)?),
        "FetchedKeys" => objects.fetched_keys.push(read(document)?),
        "Secret" => objects.secrets.push(read(document)?),
        "DeletedSecret" => {
            let secret: Arc<Secret> = read(document)?;
            objects.secrets.push(Arc::new(secret.gone()));
        }
        "ConfigMap" => objects.config_maps.push(read(document)?),
        "ClusterTrustBundle" => objects.cluster_trust_bundles.push(read(document)?),
        other => panic!("no test knows kind {other}"),
    }
    Ok(())
}

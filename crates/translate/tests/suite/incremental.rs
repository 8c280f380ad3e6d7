//! The result of a translator does not depend on the states it has translated before, and results
//! that an edit does not affect keep their identity.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;
use weft_ir::{GatewayId, Target};
use weft_translate::{Objects, Translation, Translator, translate};

use crate::consistency::place;
use crate::input::{self, FILES, settings};
use crate::mutations::odd_value;

/// The objects of a cluster, each with its text, and alone in its list.
#[derive(Default)]
struct Cluster(Vec<(Value, Objects)>);

impl Cluster {
    /// An object that cannot be read leaves the previous one in place.
    fn put(&mut self, document: Value) {
        let mut read = Objects::default();
        let kind = document["kind"].as_str().unwrap_or_default();
        if input::add(&mut read, kind, &document).is_err() {
            return;
        }
        match self.place(&document) {
            Some(at) => self.0[at] = (document, read),
            None => self.0.push((document, read)),
        }
    }

    /// Returns the position of the object of the same kind and name.
    fn place(&self, document: &Value) -> Option<usize> {
        let same = |path| move |other: &Value| other.pointer(path) == document.pointer(path);
        let is = |other: &Value| {
            same("/kind")(other)
                && same("/metadata/namespace")(other)
                && same("/metadata/name")(other)
        };
        self.0.iter().position(|(other, _)| is(other))
    }

    fn objects(&self) -> Objects {
        let mut all = Objects::default();
        for (_, one) in &self.0 {
            append(&mut all, one.clone());
        }
        all
    }
}

fn append(all: &mut Objects, one: Objects) {
    let Objects {
        services,
        service_imports,
        endpoint_slices,
        pods,
        namespaces,
        nodes,
        http_routes,
        grpc_routes,
        tls_routes,
        tcp_routes,
        udp_routes,
        gateway_classes,
        gateways,
        listener_sets,
        reference_grants,
        backend_tls_policies,
        authorization_policies,
        cluster_authorization_policies,
        authentication_policies,
        fetched_keys,
        traffic_policies,
        fault_filters,
        backend_traffic_policies,
        secrets,
        config_maps,
        cluster_trust_bundles,
    } = one;
    all.services.extend(services);
    if let Some(imports) = service_imports {
        all.service_imports.get_or_insert_default().extend(imports);
    }
    all.endpoint_slices.extend(endpoint_slices);
    all.pods.extend(pods);
    all.namespaces.extend(namespaces);
    all.nodes.extend(nodes);
    all.http_routes.extend(http_routes);
    all.grpc_routes.extend(grpc_routes);
    all.tls_routes.extend(tls_routes);
    all.tcp_routes.extend(tcp_routes);
    all.udp_routes.extend(udp_routes);
    all.gateway_classes.extend(gateway_classes);
    all.gateways.extend(gateways);
    all.listener_sets.extend(listener_sets);
    all.reference_grants.extend(reference_grants);
    all.backend_tls_policies.extend(backend_tls_policies);
    all.authorization_policies.extend(authorization_policies);
    all.traffic_policies.extend(traffic_policies);
    all.fault_filters.extend(fault_filters);
    all.backend_traffic_policies
        .extend(backend_traffic_policies);
    all.cluster_authorization_policies
        .extend(cluster_authorization_policies);
    all.authentication_policies.extend(authentication_policies);
    all.fetched_keys.extend(fetched_keys);
    all.secrets.extend(secrets);
    all.config_maps.extend(config_maps);
    all.cluster_trust_bundles.extend(cluster_trust_bundles);
}

/// A change to a cluster that consists of a golden file's objects.
#[derive(Clone, Debug)]
enum Edit {
    /// Adds an object of the file if it is missing.
    Put(Index),
    /// Adds an object of another file, or replaces the one of the same name.
    Other(Index, Index),
    /// Changes a value of an object.
    Odd(Index, usize, Value),
    /// Copies labels, annotations and timestamps from another object.
    Marks(Index, Index),
    /// Marks an object as being deleted.
    Going(Index),
    /// Replaces an object by an equal one.
    Again(Index),
    Remove(Index),
    /// Reorders objects.
    Turn(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    prop_oneof![
        6 => index().prop_map(Edit::Put),
        3 => (index(), index()).prop_map(|(file, which)| Edit::Other(file, which)),
        5 => (index(), any::<usize>(), odd_value())
            .prop_map(|(which, at, value)| Edit::Odd(which, at, value)),
        1 => (index(), index()).prop_map(|(which, from)| Edit::Marks(which, from)),
        1 => index().prop_map(Edit::Going),
        1 => index().prop_map(Edit::Again),
        3 => index().prop_map(Edit::Remove),
        1 => index().prop_map(Edit::Turn),
    ]
}

/// Parts of objects other than their names.
const PARTS: [&str; 6] = ["spec", "status", "data", "endpoints", "ports", "type"];

fn make(edit: Edit, file: &[Value], cluster: &mut Cluster) {
    let there = cluster.0.len();
    let document = |which: &Index| cluster.0[which.index(there)].0.clone();
    match edit {
        Edit::Put(which) => {
            let document = which.get(file);
            if cluster.place(document).is_none() {
                cluster.put(document.clone());
            }
        }
        Edit::Other(file, which) => cluster.put(which.get(file.get::<Vec<Value>>(&FILES)).clone()),
        _ if there == 0 => {}
        Edit::Odd(which, at, value) => {
            let mut document = document(&which);
            for part in PARTS {
                if let Some(part) = document.get_mut(part) {
                    *place(part, at) = value.clone();
                }
            }
            cluster.put(document);
        }
        Edit::Marks(which, from) => {
            let (mut document, from) = (document(&which), document(&from));
            for mark in ["labels", "annotations", "creationTimestamp"] {
                document["metadata"][mark] = from["metadata"][mark].clone();
            }
            cluster.put(document);
        }
        Edit::Going(which) => {
            let mut document = document(&which);
            document["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
            cluster.put(document);
        }
        Edit::Again(which) => cluster.put(document(&which)),
        Edit::Remove(which) => drop(cluster.0.remove(which.index(there))),
        Edit::Turn(by) => cluster.0.rotate_left(by.index(there)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn result_does_not_depend_on_earlier_translations(
        file in any::<Index>(),
        edits in prop::collection::vec(prop::collection::vec(edit(), 1..4), 1..16),
    ) {
        let file = file.get::<Vec<Value>>(&FILES);
        let mut cluster = Cluster::default();
        file.iter().for_each(|document| cluster.put(document.clone()));
        let mut translator = Translator::new(settings());
        translator.translate(&cluster.objects());
        for edits in edits {
            for edit in edits {
                make(edit, file, &mut cluster);
            }
            let objects = cluster.objects();
            prop_assert_eq!(translator.translate(&objects), translate(&objects, &settings()));
        }
    }
}

/// For every golden file: each object is deleted and created again.
#[test]
fn deleted_references_are_reported_until_they_return() {
    for file in FILES.iter() {
        let mut cluster = Cluster::default();
        file.iter().for_each(|of| cluster.put(of.clone()));
        let mut translator = Translator::new(settings());
        let mut check = |objects: Objects, what: &Value| {
            let now = translator.translate(&objects);
            assert_eq!(now, translate(&objects, &settings()), "{what}");
        };
        for _ in 0..cluster.0.len() {
            let gone = cluster.0.remove(0);
            check(cluster.objects(), &gone.0);
            cluster.0.push(gone);
            check(cluster.objects(), &Value::Null);
        }
        // A whole kind disappears or appears.
        let mut objects = cluster.objects();
        objects.service_imports = match objects.service_imports {
            Some(_) => None,
            None => Some(Vec::new()),
        };
        check(objects, &Value::from("ServiceImports"));
    }
}

/// Two Services with a route, a pod and a slice each, and a Gateway that leads to one of them.
const CLUSTER: &str = r#"
{kind: Namespace, metadata: {name: shop}}
---
{kind: Service, metadata: {name: a, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{kind: Service, metadata: {name: b, namespace: shop}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
---
{kind: Pod, metadata: {name: a-0, namespace: shop}, spec: {initContainers: [{name: weft-proxy}]}, status: {podIP: 10.1.0.1}}
---
{kind: Pod, metadata: {name: b-0, namespace: shop}, spec: {initContainers: [{name: weft-proxy}]}, status: {podIP: 10.1.0.2}}
---
kind: EndpointSlice
metadata: {name: a-1, namespace: shop, labels: {kubernetes.io/service-name: a}}
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.1], targetRef: {kind: Pod, namespace: shop, name: a-0}}]
---
kind: EndpointSlice
metadata: {name: b-1, namespace: shop, labels: {kubernetes.io/service-name: b}}
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.2], conditions: {ready: true}, targetRef: {kind: Pod, namespace: shop, name: b-0}}]
---
kind: HTTPRoute
metadata: {name: a, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: a}], rules: [{backendRefs: [{name: a, port: 80}]}]}
---
kind: HTTPRoute
metadata: {name: b, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: b}, {name: public}], rules: [{backendRefs: [{name: b, port: 80}]}]}
---
{kind: GatewayClass, metadata: {name: weft}, spec: {controllerName: weft.dev/gateway-controller}}
---
{kind: Gateway, metadata: {name: public, namespace: shop}, spec: {gatewayClassName: weft, listeners: [{name: http, port: 80, protocol: HTTP}]}}
"#;

/// Returns which of the views, endpoints and statuses of `a` and `b`, and of the Gateway's view,
/// changed.
fn touched(before: &Translation, after: &Translation) -> Vec<&'static str> {
    let view = |of: &Translation, ip: &str| {
        let address = format!("{ip}:80").parse().unwrap();
        match of.mesh.destination(address, "shop").target {
            Target::Service(service) => service,
            other => panic!("{other:?}"),
        }
    };
    let endpoints = |of: &Translation, name: &str| {
        let id = format!("shop/{name}:80").parse().unwrap();
        of.mesh.endpoints(&id, "").unwrap()
    };
    let status = |of: &Translation, name: &str| {
        let mut all = of.statuses.iter();
        Arc::clone(all.find(|of| of.name == name).unwrap())
    };
    let gateway = |of: &Translation| of.mesh.gateway(&GatewayId::new("shop", "public")).unwrap();
    let both = [before, after];
    let same = [
        ("view a", is_same(both.map(|of| view(of, "10.96.0.1")))),
        ("view b", is_same(both.map(|of| view(of, "10.96.0.2")))),
        ("endpoints a", is_same(both.map(|of| endpoints(of, "a")))),
        ("endpoints b", is_same(both.map(|of| endpoints(of, "b")))),
        ("status a", is_same(both.map(|of| status(of, "a")))),
        ("status b", is_same(both.map(|of| status(of, "b")))),
        ("gateway", is_same(both.map(gateway))),
    ];
    let others = same.into_iter().filter(|(_, same)| !same);
    others.map(|(name, _)| name).collect()
}

fn is_same<T>([before, after]: [Arc<T>; 2]) -> bool {
    Arc::ptr_eq(&before, &after)
}

#[test]
fn unaffected_results_keep_their_identity() {
    let mut cluster = Cluster::default();
    input::documents(CLUSTER)
        .into_iter()
        .for_each(|document| cluster.put(document));
    let mut translator = Translator::new(settings());
    let mut before = translator.translate(&cluster.objects());
    let mut edited = |kind: &str, name: &str, path: &str, value: Value| {
        let mut documents = cluster.0.iter().map(|(document, _)| document);
        let is = |of: &&Value| of["kind"] == kind && of["metadata"]["name"] == name;
        let mut document = documents.find(is).unwrap().clone();
        *document.pointer_mut(path).unwrap() = value;
        cluster.put(document);
        let after = translator.translate(&cluster.objects());
        let touched = touched(&before, &after);
        before = after;
        touched
    };
    let labels = serde_json::json!({"name": "shop", "labels": {"x": "y"}});
    assert_eq!(edited("Namespace", "shop", "/metadata", labels), [""; 0]);
    let at = "/spec/rules/0/backendRefs/0/port";
    let touched = edited("HTTPRoute", "a", at, 5.into());
    assert_eq!(touched, ["view a", "status a"]);
    let at = "/spec/rules/0/backendRefs/0/name";
    let touched = edited("HTTPRoute", "b", at, "a".into());
    assert_eq!(touched, ["view b", "gateway"]);
    let ip = Value::from("10.1.0.3");
    let touched = edited("EndpointSlice", "a-1", "/endpoints/0/addresses/0", ip);
    // The Gateway's route leads there now.
    assert_eq!(touched, ["endpoints a", "status b"]);
    let at = "/endpoints/0/conditions/ready";
    for ready in [false, true] {
        let touched = edited("EndpointSlice", "b-1", at, ready.into());
        assert_eq!(touched, ["endpoints b"]);
    }
    let ended = serde_json::json!({"phase": "Failed", "podIP": "10.1.0.2"});
    assert_eq!(edited("Pod", "b-0", "/status", ended), ["endpoints b"]);
    let ports = serde_json::json!([{"port": 80, "appProtocol": "http"}]);
    let touched = edited("Service", "b", "/spec/ports", ports);
    assert_eq!(touched, ["view b", "endpoints b"]);
}

//! What is kept of a watched object: its name, the fields that translation reads, and the status
//! entries of this controller.
//!
//! An object that cannot be deserialized becomes a [`Watched`] with the reason, so that it never
//! interrupts the watch.

use std::borrow::Cow;
use std::sync::Arc;

use kube::Resource;
use kube::api::ApiResource;
use kube::api::ObjectMeta;
use kube::core::DynamicResourceScope;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};
use serde_json::Value;
use weft_translate::objects;

use crate::names::{CONTROLLER_NAME, GATEWAY_CONTROLLER_NAME};

/// Namespace (empty for objects of the cluster) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// A kind that is watched.
pub trait Watchable:
    DeserializeOwned + PartialEq + std::fmt::Debug + Send + Sync + 'static
{
    /// The part of the status that is kept beside the object.
    const STATUS: StatusPart = StatusPart::Nothing;
    /// The field selector of the watch; `None` watches all objects.
    const FIELDS: Option<&'static str> = None;

    /// Removes fields that are not read, so that they neither take memory nor count as changes.
    fn slim(object: &mut Value) {
        keep_read_metadata(object, &["labels", "annotations"]);
    }
}

/// The part of an object's status that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusPart {
    Nothing,
    /// The entries of the list `status.<this>` whose `controllerName` is this controller's.
    Entries(&'static str),
    /// All of it, as one entry.
    Whole,
}

impl StatusPart {
    /// Returns the kept part of an object's status.
    fn of(self, object: &Value) -> Arc<[Value]> {
        let status = object.get("status");
        match self {
            Self::Nothing => Arc::default(),
            Self::Whole => status.into_iter().cloned().collect(),
            Self::Entries(list) => {
                let entries = status.and_then(|status| status.get(list)?.as_array());
                let own = entries.into_iter().flatten().filter(|entry| is_own(entry));
                own.cloned().collect()
            }
        }
    }
}

impl Watchable for objects::Service {}
impl Watchable for objects::ServiceImport {}
impl Watchable for objects::EndpointSlice {}
impl Watchable for objects::Pod {
    /// Selectors of policies and Services may match any label.
    fn slim(object: &mut Value) {
        keep_labels(object);
    }
}
impl Watchable for objects::Namespace {
    /// Selectors of listeners and policies may match any label.
    fn slim(object: &mut Value) {
        keep_labels(object);
    }
}

impl Watchable for objects::Node {
    /// Keeps the zone alone: the rest of a Node changes often.
    fn slim(object: &mut Value) {
        if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
            metadata.remove("annotations");
            let labels = metadata.get_mut("labels").and_then(Value::as_object_mut);
            if let Some(labels) = labels {
                labels.retain(|name, _| name == objects::ZONE_LABEL);
            }
        }
    }
}

impl Watchable for objects::HttpRoute {
    const STATUS: StatusPart = StatusPart::Entries("parents");
}
impl Watchable for objects::GrpcRoute {
    const STATUS: StatusPart = StatusPart::Entries("parents");
}
impl Watchable for objects::TlsRoute {
    const STATUS: StatusPart = StatusPart::Entries("parents");
}
impl Watchable for objects::TcpRoute {
    const STATUS: StatusPart = StatusPart::Entries("parents");
}
impl Watchable for objects::BackendTlsPolicy {
    const STATUS: StatusPart = StatusPart::Entries("ancestors");
}

impl Watchable for objects::AuthorizationPolicy {
    const STATUS: StatusPart = StatusPart::Entries("ancestors");

    fn slim(object: &mut Value) {
        remove_labels_and_annotations(object);
    }
}
impl Watchable for objects::ClusterAuthorizationPolicy {
    const STATUS: StatusPart = StatusPart::Entries("ancestors");

    fn slim(object: &mut Value) {
        remove_labels_and_annotations(object);
    }
}

impl Watchable for objects::AuthenticationPolicy {
    const STATUS: StatusPart = StatusPart::Entries("ancestors");

    fn slim(object: &mut Value) {
        remove_labels_and_annotations(object);
    }
}
impl Watchable for objects::FaultFilter {
    fn slim(object: &mut Value) {
        remove_labels_and_annotations(object);
    }
}
impl Watchable for objects::TrafficPolicy {
    const STATUS: StatusPart = StatusPart::Entries("ancestors");

    fn slim(object: &mut Value) {
        remove_labels_and_annotations(object);
    }
}

impl Watchable for objects::BackendTrafficPolicy {
    const STATUS: StatusPart = StatusPart::Entries("ancestors");

    fn slim(object: &mut Value) {
        remove_labels_and_annotations(object);
    }
}

impl Watchable for objects::GatewayClass {
    const STATUS: StatusPart = StatusPart::Whole;
}
impl Watchable for objects::Gateway {
    const STATUS: StatusPart = StatusPart::Whole;

    /// Selectors of policies may match any label.
    fn slim(object: &mut Value) {
        keep_labels(object);
    }
}
impl Watchable for objects::ListenerSet {
    const STATUS: StatusPart = StatusPart::Whole;
}

impl Watchable for objects::ReferenceGrant {}
impl Watchable for objects::ConfigMap {
    /// Empties values that are longer than any parameter, except a CA bundle.
    fn slim(object: &mut Value) {
        remove_labels_and_annotations(object);
        let data = object.get_mut("data").and_then(Value::as_object_mut);
        for (key, value) in data.into_iter().flatten() {
            if key != "ca.crt" && value.as_str().is_some_and(|text| text.len() > 4096) {
                *value = Value::from("");
            }
        }
    }
}

impl Watchable for objects::ClusterTrustBundle {
    fn slim(object: &mut Value) {
        remove_labels_and_annotations(object);
    }
}

impl Watchable for objects::Secret {
    const FIELDS: Option<&'static str> = Some("type=kubernetes.io/tls");

    fn slim(object: &mut Value) {
        remove_labels_and_annotations(object);
    }
}

/// The domains, with their subdomains, of labels and annotations that are kept.
const KEPT_DOMAINS: [&str; 3] = ["weft.dev", "kubernetes.io", "k8s.io"];
/// The maximum length of a kept value.
const MAX_VALUE_BYTES: usize = 1024;
/// The maximum number of kept labels or annotations of an object, in the order of their names.
const MAX_KEPT: usize = 64;

/// The maximum number of labels that are kept of an object whose labels selectors match, in the
/// order of their names.
const MAX_LABELS: usize = 256;

/// Keeps the labels, and the annotations that are read.
fn keep_labels(object: &mut Value) {
    keep_read_metadata(object, &["annotations"]);
    let labels = object.pointer_mut("/metadata/labels");
    if let Some(labels) = labels.and_then(Value::as_object_mut) {
        let mut left = MAX_LABELS;
        labels.retain(|_, _| {
            let kept = left > 0;
            left = left.saturating_sub(1);
            kept
        });
    }
}

/// Removes labels and annotations that are not read.
fn keep_read_metadata(object: &mut Value, fields: &[&str]) {
    let Some(metadata) = object.get_mut("metadata") else {
        return;
    };
    for field in fields {
        let Some(notes) = metadata.get_mut(field).and_then(Value::as_object_mut) else {
            continue;
        };
        let mut left = MAX_KEPT;
        notes.retain(|key, value| {
            let read = left > 0
                && is_read(key)
                && value
                    .as_str()
                    .is_none_or(|text| text.len() <= MAX_VALUE_BYTES);
            left -= usize::from(read);
            read
        });
    }
}

fn is_read(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else {
        return false;
    };
    // The last applied configuration repeats the object.
    let applied = domain == "kubectl.kubernetes.io";
    let mut read = KEPT_DOMAINS
        .iter()
        .filter_map(|read| domain.strip_suffix(read));
    !applied && read.any(|above| above.is_empty() || above.ends_with('.'))
}

/// Removes all labels and annotations: they change often and are not read.
fn remove_labels_and_annotations(object: &mut Value) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("labels");
        metadata.remove("annotations");
    }
}

/// A kept object.
#[derive(Debug)]
pub struct Entry<T> {
    pub object: Arc<T>,
    /// The kept part of the status.
    pub own: Arc<[Value]>,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self {
            object: Arc::clone(&self.object),
            own: Arc::clone(&self.own),
        }
    }
}

/// An object as the API server sends it: `T`, or why it cannot be deserialized as `T`.
#[derive(Debug)]
pub struct Watched<T> {
    /// Has name, namespace and resource version only.
    meta: ObjectMeta,
    pub body: Result<Entry<T>, Arc<str>>,
}

impl<T> Watched<T> {
    pub fn key(&self) -> ObjectKey {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        ObjectKey::new(text(&self.meta.namespace), text(&self.meta.name))
    }
}

impl<T> Clone for Watched<T> {
    fn clone(&self) -> Self {
        Self {
            meta: self.meta.clone(),
            body: self.body.clone(),
        }
    }
}

impl<'de, T: Watchable> Deserialize<'de> for Watched<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(from)?;
        if !value.is_object() {
            return Err(D::Error::custom("expected an object"));
        }
        let text = |field: &str| {
            let text = value.pointer("/metadata")?.get(field)?.as_str()?;
            Some(text.to_owned())
        };
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        let own = T::STATUS.of(&value);
        T::slim(&mut value);
        let body = serde_json::from_value(value)
            .map(|object| Entry {
                object: Arc::new(object),
                own,
            })
            .map_err(|error| error.to_string().into());
        Ok(Self { meta, body })
    }
}

/// Returns true if an entry of a status list is this controller's.
pub fn is_own(entry: &Value) -> bool {
    let controller = entry.get("controllerName").and_then(Value::as_str);
    controller.is_some_and(|name| [CONTROLLER_NAME, GATEWAY_CONTROLLER_NAME].contains(&name))
}

impl<T> Resource for Watched<T> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn api_version(of: &ApiResource) -> Cow<'_, str> {
        of.api_version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;
    use weft_translate::objects::{ConfigMap, HttpRoute, Service};

    #[test]
    fn unreadable_object_keeps_its_name_and_the_reason() {
        let broken = json!({
            "metadata": {"name": "a", "namespace": "b", "resourceVersion": "7"},
            "spec": {"ports": "none"},
        });
        let watched: Watched<Service> = serde_json::from_value(broken).unwrap();
        assert_eq!(watched.key(), ObjectKey::new("b", "a"));
        assert_eq!(watched.meta().resource_version.as_deref(), Some("7"));
        assert!(watched.body.is_err());
    }

    #[test]
    fn unread_labels_and_annotations_are_removed() {
        let service = |note: &str| -> Watched<Service> {
            let mut annotations = json!({
                "weft.dev/gateway-routes": "apply",
                "kubectl.kubernetes.io/last-applied-configuration": note,
                "example.k8s.io/long": note.repeat(400),
                "example.com/note": note,
                "myk8s.io/note": note,
                "note": note,
            });
            for place in 0..100 {
                annotations[format!("z.weft.dev/{place:03}")] = "x".into();
            }
            let labels = json!({"kubernetes.io/service-name": "a", "team": note});
            let metadata = json!({"name": "a", "labels": labels, "annotations": annotations});
            serde_json::from_value(json!({"metadata": metadata, "spec": {}})).unwrap()
        };
        let (one, other) = (service("one").body.unwrap(), service("other").body.unwrap());
        assert_eq!(one.object, other.object);
        let meta = &one.object.metadata;
        assert_eq!(meta.labels.len(), 1);
        assert_eq!(meta.annotations.len(), MAX_KEPT);
        assert_eq!(meta.annotations["weft.dev/gateway-routes"], "apply");
    }

    #[test]
    fn labels_that_selectors_match_are_kept_up_to_a_number() {
        let labels = |count: usize| {
            let labels = (0..count).map(|place| (format!("team-{place:03}"), "x".into()));
            let labels: serde_json::Map<_, _> = labels.collect();
            json!({"metadata": {"name": "a", "labels": labels}})
        };
        fn kept<T: Watchable>(object: Value, meta: impl Fn(&T) -> &objects::Meta) -> usize {
            let watched: Watched<T> = serde_json::from_value(object).unwrap();
            meta(&watched.body.unwrap().object).labels.len()
        }
        for (count, expected) in [(3, 3), (300, MAX_LABELS)] {
            let object = || labels(count);
            let namespaces = kept(object(), |of: &objects::Namespace| &of.metadata);
            let pods = kept(object(), |of: &objects::Pod| &of.metadata);
            let gateways = kept(object(), |of: &objects::Gateway| &of.metadata);
            assert_eq!([namespaces, pods, gateways], [expected; 3]);
        }
    }

    /// A policy that cannot be read must be seen, so that it can be closed.
    #[test]
    fn unreadable_policy_is_an_object() {
        let policy = json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {"later": 1}});
        let watched: Watched<objects::AuthorizationPolicy> =
            serde_json::from_value(policy).unwrap();
        let object = watched.body.unwrap().object;
        assert!(matches!(
            object.spec,
            objects::ProtectiveSpec::Unreadable(_)
        ));
    }

    #[test]
    fn only_own_status_entries_are_kept() {
        let ours = json!({"controllerName": CONTROLLER_NAME, "parentRef": {"name": "x"}});
        let route = json!({
            "metadata": {"name": "a", "namespace": "b"},
            "status": {"parents": [{"controllerName": "other.dev/c"}, ours, 5]},
            "unknown": true,
        });
        let watched: Watched<HttpRoute> = serde_json::from_value(route).unwrap();
        let entry = watched.body.unwrap();
        assert_eq!(&*entry.own, [ours]);
        assert_eq!(entry.object.metadata.name, "a");
    }

    #[test]
    fn long_values_of_config_maps_are_emptied_except_bundles() {
        let long = "x".repeat(5000);
        let map = |note: &str| {
            let object = json!({
                "metadata": {"name": "a", "namespace": "b", "annotations": {"leader": note}},
                "data": {"ca.crt": long, "page.html": long, "replicas": "2"},
            });
            let watched: Watched<ConfigMap> = serde_json::from_value(object).unwrap();
            watched.body.unwrap().object
        };
        let read = map("one");
        let lengths: Vec<_> = read.data.values().map(String::len).collect();
        assert_eq!(lengths, [5000, 0, 1]);
        assert_eq!(read, map("two"));
    }
}

//! The objects in the cluster that were made for Gateways, as last watched: their metadata alone.

use std::collections::HashMap;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ObjectMeta};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource};

use super::render::Kind;
use crate::kubernetes::{FIELD_MANAGER, MANAGED_BY};
use crate::watch::ObjectKey;

/// The observed metadata of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObservedObject {
    pub(super) uid: String,
    /// The UID of the Gateway that owns it.
    pub(super) owner: Option<String>,
    /// The class of its Gateway, from its label.
    pub(super) class: Option<String>,
    /// The generation, or the resource version of kinds without one. Changes whenever the spec
    /// does.
    pub(super) version: String,
    pub(super) deleting: bool,
}

impl ObservedObject {
    pub(super) fn new(meta: &ObjectMeta) -> Self {
        let owners = meta.owner_references.iter().flatten();
        let owner = owners
            .filter(|owner| owner.kind == "Gateway" && owner.controller == Some(true))
            .map(|owner| owner.uid.clone())
            .next();
        let class = meta.labels.as_ref();
        let class = class.and_then(|labels| labels.get(weft_translate::CLASS_LABEL).cloned());
        let generation = meta.generation.map(|generation| generation.to_string());
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            owner,
            class,
            version: generation
                .or_else(|| meta.resource_version.clone())
                .unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }
}

pub(super) type ObjectId = (Kind, ObjectKey);

/// All objects with the label of Gateways' objects.
#[derive(Default)]
pub(super) struct Observed {
    pub(super) objects: HashMap<ObjectId, ObservedObject>,
    /// Lists in progress.
    incoming: HashMap<Kind, HashMap<ObjectKey, ObservedObject>>,
    complete: Vec<Kind>,
}

impl Observed {
    /// Returns true once every kind has completed its initial list.
    pub(super) fn listed(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.complete.contains(kind))
    }

    fn apply(&mut self, kind: Kind, event: Event<PartialObjectMeta<DynamicObject>>) {
        let read = |object: &PartialObjectMeta<DynamicObject>| {
            let meta = object.meta();
            let text = |field: &Option<String>| field.clone().unwrap_or_default();
            let key = ObjectKey::new(text(&meta.namespace), text(&meta.name));
            (key, ObservedObject::new(meta))
        };
        match event {
            Event::Init => drop(self.incoming.insert(kind, HashMap::new())),
            Event::InitApply(object) => {
                let (key, seen) = read(&object);
                self.incoming.entry(kind).or_default().insert(key, seen);
            }
            Event::InitDone => {
                self.objects.retain(|(of, _), _| *of != kind);
                let incoming = self.incoming.remove(&kind).unwrap_or_default();
                let incoming = incoming.into_iter().map(|(key, seen)| ((kind, key), seen));
                self.objects.extend(incoming);
                if !self.complete.contains(&kind) {
                    self.complete.push(kind);
                }
            }
            Event::Apply(object) => {
                let (key, seen) = read(&object);
                self.objects.insert((kind, key), seen);
            }
            Event::Delete(object) => drop(self.objects.remove(&(kind, read(&object).0))),
        }
    }
}

type WatchEvent = (
    Kind,
    watcher::Result<Event<PartialObjectMeta<DynamicObject>>>,
);

/// The watches of [`Observed`]; they end when this is dropped.
pub(super) struct Watches(stream::SelectAll<BoxStream<'static, WatchEvent>>);

impl Watches {
    pub(super) fn new(client: &Client) -> Self {
        Self(stream::select_all(Kind::ALL.map(|kind| {
            let config =
                watcher::Config::default().labels(&format!("{MANAGED_BY}={FIELD_MANAGER}"));
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::all_with(client.clone(), &resource(kind));
            watcher(api, config)
                .default_backoff()
                .map(move |event| (kind, event))
                .boxed()
        })))
    }

    /// Applies the next event.
    pub(super) async fn next(&mut self, observed: &mut Observed) {
        match self.0.next().await {
            Some((kind, Ok(event))) => observed.apply(kind, event),
            Some((kind, Err(error))) => tracing::warn!(
                kind = kind.names().2,
                %error,
                "watch of the objects of Gateways interrupted: keeping what is known and trying \
                 again; check that the API server answers and that the provisioner's account may \
                 list and watch this kind"
            ),
            None => std::future::pending().await,
        }
    }
}

pub(super) fn resource(kind: Kind) -> ApiResource {
    let (group, version, kind, plural) = kind.names();
    let gvk = GroupVersionKind::gvk(group, version, kind);
    ApiResource::from_gvk_with_plural(&gvk, plural)
}

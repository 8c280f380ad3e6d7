//! The namespaces from which routes and ListenerSets may attach.
//!
//! Source: `RouteNamespaces`, `ListenerNamespaces`, `metav1.LabelSelector`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::objects::{FromNamespaces, LabelSelector, Namespace};
use crate::selectors::{check, selects, words};

/// The labels of every namespace, by name.
#[derive(Debug)]
pub(crate) struct Namespaces<'a>(HashMap<&'a str, &'a BTreeMap<String, String>>);

impl<'a> Namespaces<'a> {
    pub(crate) fn new(namespaces: &'a [Arc<Namespace>]) -> Self {
        let labels = namespaces
            .iter()
            .map(|of| (of.metadata.name.as_str(), &of.metadata.labels));
        Self(labels.collect())
    }
}

/// The namespaces from which objects may attach.
#[derive(Debug)]
pub(crate) enum NamespaceScope<'a> {
    All,
    /// The owner's own namespace.
    Same,
    Selector(&'a LabelSelector),
    None,
}

impl<'a> NamespaceScope<'a> {
    /// `absent` is the default. The error has the field path and what is wrong there.
    pub(crate) fn new(
        spec: Option<&'a FromNamespaces>,
        absent: Self,
        at: &str,
    ) -> Result<Self, String> {
        let Some(FromNamespaces { from, selector }) = spec else {
            return Ok(absent);
        };
        match from.as_deref() {
            None => Ok(absent),
            Some("All") => Ok(Self::All),
            Some("Same") => Ok(Self::Same),
            Some("None") => Ok(Self::None),
            Some("Selector") => {
                let selector = selector
                    .as_ref()
                    .ok_or_else(|| format!("{at}.selector is required"))?;
                check(selector).map_err(|why| format!("{at}.selector: {why}"))?;
                Ok(Self::Selector(selector))
            }
            Some(other) => Err(format!(
                "{at}.from: {other:?} is not supported; supported values are All, Selector, Same, \
                 None"
            )),
        }
    }

    /// Returns true if an owner in `own` allows objects in `namespace`.
    pub(crate) fn admits(&self, own: &str, namespace: &str, namespaces: &Namespaces<'_>) -> bool {
        match self {
            Self::All => true,
            Self::Same => own == namespace,
            Self::None => false,
            Self::Selector(selector) => {
                let labels = namespaces.0.get(namespace);
                labels.is_some_and(|labels| selects(selector, labels))
            }
        }
    }

    /// Describes the scope for a message: `from namespaces labelled ...`.
    pub(crate) fn describe(&self, own: &str) -> String {
        match self {
            Self::All => "from all namespaces".to_owned(),
            Self::Same => format!("from namespace {own}"),
            Self::None => "from no namespace".to_owned(),
            Self::Selector(selector) => format!("from namespaces labelled {}", words(selector)),
        }
    }
}

//! Whether a pod serves plain text: by its own annotation, else its namespace's, else as the mesh does.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::Mode;

use crate::objects::{Meta, Namespace};

/// `strict` or `permissive`, on a pod or a namespace.
const MTLS: &str = "weft.dev/mtls";

#[derive(Debug, PartialEq)]
pub(crate) struct Modes {
    mesh: Mode,
    /// Of namespaces that say one.
    namespaces: HashMap<String, Mode>,
    /// Of annotations that cannot be read: the wider scope decides as if they were not there.
    pub(crate) warnings: BTreeSet<String>,
}

impl Modes {
    pub(crate) fn new(mesh: Mode, namespaces: &[Arc<Namespace>]) -> Self {
        let mut modes = Self {
            mesh,
            namespaces: HashMap::new(),
            warnings: BTreeSet::new(),
        };
        for namespace in namespaces {
            let meta = &namespace.metadata;
            match annotated(meta) {
                Ok(Some(mode)) => drop(modes.namespaces.insert(meta.name.clone(), mode)),
                Ok(None) => {}
                Err(value) => {
                    let warning = warning(&format!("namespace {}", meta.name), value, mesh);
                    modes.warnings.insert(warning);
                }
            }
        }
        modes
    }

    /// The mode of the pod with this metadata; with a warning where its annotation cannot be read.
    pub(crate) fn of(&self, pod: &Meta) -> (Mode, Option<String>) {
        let namespace = self.namespaces.get(&pod.namespace);
        let wider = namespace.copied().unwrap_or(self.mesh);
        match annotated(pod) {
            Ok(own) => (own.unwrap_or(wider), None),
            Err(value) => {
                let whose = format!("pod {}/{}", pod.namespace, pod.name);
                (wider, Some(warning(&whose, value, wider)))
            }
        }
    }
}

/// Quotes at most 64 characters, as they may come from anybody.
fn warning(whose: &str, value: &str, wider: Mode) -> String {
    let value: String = value.chars().take(64).collect();
    let mode = match wider {
        Mode::Permissive => "permissive",
        Mode::Strict => "strict",
    };
    format!(
        "{whose}: annotation {MTLS} is {value:?} and must be strict or permissive; {mode} stays in force"
    )
}

/// `Err`: the value that is no mode.
fn annotated(meta: &Meta) -> Result<Option<Mode>, &str> {
    match meta.annotations.get(MTLS).map(String::as_str) {
        None => Ok(None),
        Some("strict") => Ok(Some(Mode::Strict)),
        Some("permissive") => Ok(Some(Mode::Permissive)),
        Some(other) => Err(other),
    }
}

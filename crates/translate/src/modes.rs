//! Whether a pod serves plain text: by its own annotation, else its namespace's, else as the mesh does.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::Mode;

use crate::objects::{Meta, Namespace};

/// `strict` or `permissive`, on a pod or a namespace.
const MTLS: &str = "weft.dev/mtls";

pub(crate) struct Modes<'a> {
    mesh: Mode,
    /// Of namespaces that say one.
    namespaces: HashMap<&'a str, Mode>,
    /// Of annotations that cannot be read: the wider scope decides as if they were not there.
    pub(crate) warnings: BTreeSet<String>,
}

impl<'a> Modes<'a> {
    pub(crate) fn new(mesh: Mode, namespaces: &'a [Arc<Namespace>]) -> Self {
        let mut modes = Self {
            mesh,
            namespaces: HashMap::new(),
            warnings: BTreeSet::new(),
        };
        for namespace in namespaces {
            let meta = &namespace.metadata;
            match annotated(meta) {
                Ok(Some(mode)) => drop(modes.namespaces.insert(&meta.name, mode)),
                Ok(None) => {}
                Err(value) => modes.warn(&format!("namespace {}", meta.name), value, mesh),
            }
        }
        modes
    }

    /// The mode of the pod with this metadata.
    pub(crate) fn of(&mut self, pod: &Meta) -> Mode {
        let namespace = self.namespaces.get(pod.namespace.as_str());
        let wider = namespace.copied().unwrap_or(self.mesh);
        annotated(pod).map_or_else(
            |value| {
                let whose = format!("pod {}/{}", pod.namespace, pod.name);
                self.warn(&whose, value, wider);
                wider
            },
            |own| own.unwrap_or(wider),
        )
    }

    /// Quotes at most 64 characters, as they may come from anybody.
    fn warn(&mut self, whose: &str, value: &str, wider: Mode) {
        let value: String = value.chars().take(64).collect();
        let mode = match wider {
            Mode::Permissive => "permissive",
            Mode::Strict => "strict",
        };
        self.warnings.insert(format!(
            "{whose}: annotation {MTLS} is {value:?} and must be strict or permissive; {mode} stays in force"
        ));
    }
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

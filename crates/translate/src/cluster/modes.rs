//! The mTLS mode of pods, permissive or strict: from the pod's annotation, else that of its
//! namespace, else the mode of the mesh. A strict minimum of the mesh overrides all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::Mode;

use crate::objects::{Meta, Namespace};

/// Annotation of a pod or a namespace; `strict` or `permissive`.
const MTLS: &str = "weft.dev/mtls";

/// The mTLS modes of the mesh and its namespaces.
#[derive(Debug, PartialEq)]
pub(crate) struct MtlsModes {
    mesh: Mode,
    /// No annotation goes below this mode.
    floor: Mode,
    /// Modes of the namespaces that set one.
    namespaces: HashMap<String, Mode>,
    /// Warnings about invalid annotations, which are treated as absent.
    pub(crate) warnings: BTreeSet<String>,
}

impl MtlsModes {
    pub(crate) fn new(mesh: Mode, floor: Mode, namespaces: &[Arc<Namespace>]) -> Self {
        let mesh = stricter(mesh, floor);
        let mut modes = Self {
            mesh,
            floor,
            namespaces: HashMap::new(),
            warnings: BTreeSet::new(),
        };
        for namespace in namespaces {
            let meta = &namespace.metadata;
            match annotated(meta) {
                Ok(Some(said)) => {
                    let mode = stricter(said, floor);
                    if mode != said {
                        let warning = below_floor_warning(&format!("namespace {}", meta.name));
                        modes.warnings.insert(warning);
                    }
                    modes.namespaces.insert(meta.name.clone(), mode);
                }
                Ok(None) => {}
                Err(value) => {
                    let warning =
                        invalid_value_warning(&format!("namespace {}", meta.name), value, mesh);
                    modes.warnings.insert(warning);
                }
            }
        }
        modes
    }

    /// Returns the mode of the pod with this metadata, and a warning if its annotation is invalid.
    pub(crate) fn of(&self, pod: &Meta) -> (Mode, Option<String>) {
        let namespace = self.namespaces.get(&pod.namespace);
        let wider = namespace.copied().unwrap_or(self.mesh);
        match annotated(pod) {
            Ok(None) => (wider, None),
            Ok(Some(own)) => {
                let mode = stricter(own, self.floor);
                let whose = || format!("pod {}/{}", pod.namespace, pod.name);
                (mode, (mode != own).then(|| below_floor_warning(&whose())))
            }
            Err(value) => {
                let whose = format!("pod {}/{}", pod.namespace, pod.name);
                (wider, Some(invalid_value_warning(&whose, value, wider)))
            }
        }
    }
}

/// Returns the stricter of the two.
fn stricter(mode: Mode, floor: Mode) -> Mode {
    match floor {
        Mode::Strict => Mode::Strict,
        Mode::Permissive => mode,
    }
}

fn below_floor_warning(whose: &str) -> String {
    format!(
        "{whose}: annotation {MTLS} is permissive, below the minimum of the mesh (chart value \
         mtlsFloor); strict stays in effect"
    )
}

/// Quotes at most 64 characters, since anybody can write the annotation.
fn invalid_value_warning(whose: &str, value: &str, wider: Mode) -> String {
    let value: String = value.chars().take(64).collect();
    let mode = match wider {
        Mode::Permissive => "permissive",
        Mode::Strict => "strict",
    };
    format!(
        "{whose}: annotation {MTLS} is {value:?} and must be strict or permissive; {mode} stays \
         in effect"
    )
}

/// Returns the invalid value as the error.
fn annotated(meta: &Meta) -> Result<Option<Mode>, &str> {
    match meta.annotations.get(MTLS).map(String::as_str) {
        None => Ok(None),
        Some("strict") => Ok(Some(Mode::Strict)),
        Some("permissive") => Ok(Some(Mode::Permissive)),
        Some(other) => Err(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(namespace: &str, name: &str, mtls: &str) -> Meta {
        let annotations = match mtls {
            "" => serde_json::json!({}),
            mtls => serde_json::json!({ MTLS: mtls }),
        };
        let meta =
            serde_json::json!({ "namespace": namespace, "name": name, "annotations": annotations });
        serde_json::from_value(meta).unwrap()
    }

    fn namespace(name: &str, mtls: &str) -> Arc<Namespace> {
        let namespace =
            serde_json::json!({ "metadata": { "name": name, "annotations": { MTLS: mtls } } });
        Arc::new(serde_json::from_value(namespace).unwrap())
    }

    /// An annotation must not open a pod that the operator of the mesh requires to be strict.
    #[test]
    fn annotations_cannot_go_below_the_minimum_mode() {
        let namespaces = [namespace("open", "permissive"), namespace("odd", "none")];
        let modes = MtlsModes::new(Mode::Permissive, Mode::Strict, &namespaces);
        assert_eq!(modes.warnings.len(), 2, "{:?}", modes.warnings);
        for (of, mtls, warned) in [
            ("shop", "", false),
            ("shop", "strict", false),
            ("shop", "permissive", true),
            ("shop", "permisive", true),
            ("open", "", false),
            ("open", "permissive", true),
            ("odd", "", false),
        ] {
            let (mode, warning) = modes.of(&meta(of, "web", mtls));
            assert_eq!(
                (mode, warning.is_some()),
                (Mode::Strict, warned),
                "{of} {mtls:?}"
            );
        }
        let modes = MtlsModes::new(Mode::Permissive, Mode::Permissive, &namespaces);
        let (mode, warning) = modes.of(&meta("shop", "web", "strict"));
        assert_eq!((mode, warning), (Mode::Strict, None));
        let modes = MtlsModes::new(Mode::Strict, Mode::Permissive, &namespaces);
        let (mode, warning) = modes.of(&meta("open", "web", ""));
        assert_eq!((mode, warning), (Mode::Permissive, None));
    }
}

//! Whether a pod serves plain text: by its own annotation, else its namespace's, else as the mesh does; never when the mesh
//! has a floor of strict.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::Mode;

use crate::objects::{Meta, Namespace};

/// `strict` or `permissive`, on a pod or a namespace.
const MTLS: &str = "weft.dev/mtls";

#[derive(Debug, PartialEq)]
pub(crate) struct Modes {
    mesh: Mode,
    /// Below which no annotation goes.
    floor: Mode,
    /// Of namespaces that say one.
    namespaces: HashMap<String, Mode>,
    /// Of annotations that cannot be read: the wider scope decides as if they were not there.
    pub(crate) warnings: BTreeSet<String>,
}

impl Modes {
    pub(crate) fn new(mesh: Mode, floor: Mode, namespaces: &[Arc<Namespace>]) -> Self {
        let mesh = raised(mesh, floor);
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
                    let mode = raised(said, floor);
                    if mode != said {
                        let warning = below(&format!("namespace {}", meta.name));
                        modes.warnings.insert(warning);
                    }
                    modes.namespaces.insert(meta.name.clone(), mode);
                }
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
            Ok(None) => (wider, None),
            Ok(Some(own)) => {
                let mode = raised(own, self.floor);
                let whose = || format!("pod {}/{}", pod.namespace, pod.name);
                (mode, (mode != own).then(|| below(&whose())))
            }
            Err(value) => {
                let whose = format!("pod {}/{}", pod.namespace, pod.name);
                (wider, Some(warning(&whose, value, wider)))
            }
        }
    }
}

/// The stricter of the two.
fn raised(mode: Mode, floor: Mode) -> Mode {
    match floor {
        Mode::Strict => Mode::Strict,
        Mode::Permissive => mode,
    }
}

fn below(whose: &str) -> String {
    format!(
        "{whose}: annotation {MTLS} is permissive, below the mesh's floor (chart: mtlsFloor); strict stays in force"
    )
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

    /// Who may write an annotation cannot open a pod that the mesh's operator wants closed.
    #[test]
    fn annotations_raise_the_floor_and_never_lower_it() {
        let namespaces = [namespace("open", "permissive"), namespace("odd", "none")];
        let modes = Modes::new(Mode::Permissive, Mode::Strict, &namespaces);
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
        let modes = Modes::new(Mode::Permissive, Mode::Permissive, &namespaces);
        let (mode, warning) = modes.of(&meta("shop", "web", "strict"));
        assert_eq!((mode, warning), (Mode::Strict, None));
        let modes = Modes::new(Mode::Strict, Mode::Permissive, &namespaces);
        let (mode, warning) = modes.of(&meta("open", "web", ""));
        assert_eq!((mode, warning), (Mode::Permissive, None));
    }
}

//! The mTLS mode of pods, permissive or strict: from the pod's annotation, else that of its
//! namespace, else the mode of the mesh; for single ports from an annotation of the pod. A strict
//! minimum of the mesh overrides all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::Mode;

use crate::objects::{Meta, Namespace};

/// Annotation of a pod or a namespace; `strict` or `permissive`.
const MTLS: &str = "weft.dev/mtls";

/// Annotation of a pod: the modes of single ports, such as `8080=strict,9090=permissive`.
const MTLS_PORTS: &str = "weft.dev/mtls-ports";
/// The maximum number of ports in an annotation.
const MAX_PORTS: usize = 64;

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
                        let warning =
                            below_floor_warning(&format!("namespace {}", meta.name), MTLS);
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
                (
                    mode,
                    (mode != own).then(|| below_floor_warning(&whose(), MTLS)),
                )
            }
            Err(value) => {
                let whose = format!("pod {}/{}", pod.namespace, pod.name);
                (wider, Some(invalid_value_warning(&whose, value, wider)))
            }
        }
    }

    /// Returns the modes of single ports of the pod with this metadata, and a warning if its
    /// annotation is invalid or goes below the floor.
    pub(crate) fn of_ports(&self, pod: &Meta) -> (BTreeMap<u16, Mode>, Option<String>) {
        let Some(text) = pod.annotations.get(MTLS_PORTS) else {
            return (BTreeMap::new(), None);
        };
        let whose = || format!("pod {}/{}", pod.namespace, pod.name);
        let Some(said) = port_modes(text) else {
            return (BTreeMap::new(), Some(invalid_ports_warning(&whose(), text)));
        };
        let raised = |(port, mode): (&u16, &Mode)| (*port, stricter(*mode, self.floor));
        let modes: BTreeMap<u16, Mode> = said.iter().map(raised).collect();
        let warning = (modes != said).then(|| below_floor_warning(&whose(), MTLS_PORTS));
        (modes, warning)
    }
}

/// Returns `None` if the text is no list of ports with their modes, names a port twice, or too
/// many.
fn port_modes(text: &str) -> Option<BTreeMap<u16, Mode>> {
    let mut modes = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|of| !of.is_empty()) {
        let (port, mode) = part.split_once('=')?;
        let port: u16 = port.trim().parse().ok().filter(|port| *port > 0)?;
        if modes.insert(port, mode_named(mode.trim())?).is_some() {
            return None;
        }
    }
    (modes.len() <= MAX_PORTS).then_some(modes)
}

/// Returns the stricter of the two.
fn stricter(mode: Mode, floor: Mode) -> Mode {
    match floor {
        Mode::Strict => Mode::Strict,
        Mode::Permissive => mode,
    }
}

fn below_floor_warning(whose: &str, annotation: &str) -> String {
    format!(
        "{whose}: annotation {annotation} is permissive, below the minimum of the mesh (chart value \
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

/// Quotes at most 64 characters, since anybody can write the annotation.
fn invalid_ports_warning(whose: &str, value: &str) -> String {
    let value: String = value.chars().take(64).collect();
    format!(
        "{whose}: annotation {MTLS_PORTS} is {value:?} and must be a list of at most {MAX_PORTS} \
         ports with their modes, such as 8080=strict,9090=permissive; it has no effect"
    )
}

/// Returns the invalid value as the error.
fn annotated(meta: &Meta) -> Result<Option<Mode>, &str> {
    match meta.annotations.get(MTLS).map(String::as_str) {
        None => Ok(None),
        Some(text) => mode_named(text).map(Some).ok_or(text),
    }
}

fn mode_named(text: &str) -> Option<Mode> {
    match text {
        "strict" => Some(Mode::Strict),
        "permissive" => Some(Mode::Permissive),
        _ => None,
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
        let mut ports = meta("shop", "web", "");
        let said = "80=permissive,90=strict".to_owned();
        ports.annotations.insert(MTLS_PORTS.to_owned(), said);
        let (modes_of_ports, warning) = modes.of_ports(&ports);
        assert!(warning.is_some());
        let strict = [(80, Mode::Strict), (90, Mode::Strict)];
        assert_eq!(modes_of_ports, strict.into());
        let modes = MtlsModes::new(Mode::Permissive, Mode::Permissive, &namespaces);
        let (mode, warning) = modes.of(&meta("shop", "web", "strict"));
        assert_eq!((mode, warning), (Mode::Strict, None));
        let modes = MtlsModes::new(Mode::Strict, Mode::Permissive, &namespaces);
        let (mode, warning) = modes.of(&meta("open", "web", ""));
        assert_eq!((mode, warning), (Mode::Permissive, None));
    }
}

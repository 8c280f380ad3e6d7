//! Who may call where no `ALLOW` policy applies: from the annotation of the namespace, else the
//! default of the mesh. Neither goes below the minimum of the mesh.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::DefaultAuthorization;

use crate::objects::Namespace;

/// Annotation of a namespace; `allow`, `mesh` or `deny`.
const DEFAULT: &str = "weft.dev/authorization-default";

/// The defaults of the mesh and its namespaces.
#[derive(Debug, PartialEq)]
pub(crate) struct AuthorizationDefaults {
    pub(super) mesh: DefaultAuthorization,
    /// Defaults of the namespaces that set one.
    namespaces: HashMap<Arc<str>, DefaultAuthorization>,
    /// Warnings about invalid annotations, which are treated as absent, and about those below the
    /// minimum.
    pub(crate) warnings: BTreeSet<String>,
}

impl AuthorizationDefaults {
    pub(crate) fn new(
        mesh: DefaultAuthorization,
        floor: DefaultAuthorization,
        namespaces: &[Arc<Namespace>],
    ) -> Self {
        let mesh = mesh.max(floor);
        let mut defaults = Self {
            mesh,
            namespaces: HashMap::new(),
            warnings: BTreeSet::new(),
        };
        for namespace in namespaces {
            let meta = &namespace.metadata;
            let Some(text) = meta.annotations.get(DEFAULT) else {
                continue;
            };
            let name = &meta.name;
            match text.parse::<DefaultAuthorization>() {
                Ok(wanted) => {
                    let default = wanted.max(floor);
                    if default != wanted {
                        defaults.warnings.insert(format!(
                            "namespace {name}: annotation {DEFAULT} is {}, below the minimum of \
                             the mesh (chart value authorization.floor); {} stays in effect",
                            wanted.as_str(),
                            default.as_str()
                        ));
                    }
                    defaults.namespaces.insert(Arc::from(&**name), default);
                }
                Err(_) => {
                    // Quotes at most 64 characters, since anybody can write the annotation.
                    let text: String = text.chars().take(64).collect();
                    defaults.warnings.insert(format!(
                        "namespace {name}: annotation {DEFAULT} is {text:?} and must be allow, \
                         mesh or deny; {} stays in effect",
                        mesh.as_str()
                    ));
                }
            }
        }
        defaults
    }

    pub(super) fn of(&self, namespace: &str) -> DefaultAuthorization {
        let own = self.namespaces.get(namespace);
        own.copied().unwrap_or(self.mesh)
    }
}

#[cfg(test)]
mod tests {
    use super::DefaultAuthorization::{Allow, Deny, Mesh};
    use super::*;

    /// An annotation must not open a namespace that the operator of the mesh requires to be closed.
    #[test]
    fn annotations_cannot_go_below_the_minimum_default() {
        let namespace = |name: &str, default: &str| {
            let annotations = serde_json::json!({ DEFAULT: default });
            let namespace =
                serde_json::json!({"metadata": {"name": name, "annotations": annotations}});
            Arc::new(serde_json::from_value(namespace).unwrap())
        };
        let names = ["allow", "mesh", "deny", "odd"];
        let namespaces: Vec<Arc<Namespace>> =
            names.iter().map(|name| namespace(name, name)).collect();
        for (mesh, floor, expected, warnings) in [
            (Allow, Allow, [Allow, Mesh, Deny, Allow, Allow], 1),
            (Mesh, Allow, [Allow, Mesh, Deny, Mesh, Mesh], 1),
            (Deny, Allow, [Allow, Mesh, Deny, Deny, Deny], 1),
            (Allow, Mesh, [Mesh, Mesh, Deny, Mesh, Mesh], 2),
            (Allow, Deny, [Deny, Deny, Deny, Deny, Deny], 3),
        ] {
            let defaults = AuthorizationDefaults::new(mesh, floor, &namespaces);
            let of = ["allow", "mesh", "deny", "odd", "absent"].map(|name| defaults.of(name));
            assert_eq!(of, expected, "{mesh:?} {floor:?}");
            assert_eq!(defaults.warnings.len(), warnings, "{:?}", defaults.warnings);
        }
    }
}

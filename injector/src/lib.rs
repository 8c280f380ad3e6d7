//! The injector: patches pods so that they join the mesh, as a mutating webhook, and installs the
//! redirect rules in a pod's init container. It neither routes traffic nor signs certificates.

pub mod patch;
pub mod redirect;
pub mod settings;
pub mod webhook;

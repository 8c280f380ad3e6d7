//! The injector: decides how a pod is changed so that it joins the mesh, serves that decision as a mutating
//! webhook, and writes the redirect rules that a pod's init step runs. It neither routes traffic nor signs
//! identities.

pub mod patch;
pub mod redirect;
pub mod settings;
pub mod webhook;

//! Identity: the root, the certificates it signs, and who may have one.
//!
//! `ca`, `chain`, `csr`, `trust` and the decision in `review` are pure; `store` and `roots` keep the Secret and the
//! ConfigMaps; `sign` answers proxies; `peer` and `serving` are the two halves of the server's own TLS.

mod ca;
mod chain;
mod csr;
mod metrics;
mod peer;
pub mod pod;
mod review;
mod reviews;
pub mod roots;
mod serving;
mod sign;
mod store;
#[cfg(test)]
pub(crate) mod tests;
mod token;
mod trust;

use std::collections::BTreeMap;

pub use ca::{Authority, Issued, RootPem, SignError, new_root};
pub use chain::LoadError;
pub use csr::{CsrError, MAX_CSR, Request as CsrRequest, parse as parse_csr};
pub use metrics::Metrics;
pub use peer::{ClientVerifier, PeerError, end_of_validity, identity_of};
pub use review::{Caller, KubeReviewer, Refusal, ReviewError, Reviewer, review_outcome};
pub use serving::{ServerIdentity, Serving};
pub use sign::{SignFailure, Signer};
pub use store::{Problem, SecretReceiver, SecretStore, StoreError, read as read_secret};
pub use token::Implausible;
pub use trust::{Bundle, Phase, Trust, TrustReceiver};

/// Labels of everything that the controller writes.
fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([(
        "app.kubernetes.io/managed-by".to_owned(),
        "weft-controller".to_owned(),
    )])
}

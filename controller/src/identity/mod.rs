//! Identity: the root, the certificates that it signs, and who may obtain one.
//!
//! `ca`, `chain`, `csr`, `bundle`, `trust` and the decision in `review` are pure; `store` and
//! `roots` keep the Secret and the ConfigMaps; `sign` is the CertificateAuthority service; `peer`
//! verifies the clients of the server's own TLS and `serving` keeps its certificate.

mod bundle;
mod ca;
mod chain;
mod csr;
mod fingerprint;
mod load_error;
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

pub use bundle::Bundle;
pub use ca::{Authority, Issued, RootPem, SignError, new_root};
pub use csr::{CsrError, MAX_CSR, Request as CsrRequest, parse as parse_csr};
pub use fingerprint::RootFingerprint;
pub use load_error::LoadError;
pub(crate) use metrics::RotationStep;
pub use metrics::{HandshakeResult, Metrics};
pub use peer::{ClientVerifier, PeerError, PeerIdentity, Proven, end_of_validity, identity_of};
pub use review::{Caller, KubeReviewer, ReviewError, Reviewer, TokenRejection, review_outcome};
pub use serving::{ServerIdentity, Serving};
pub use sign::{SignFailure, Signer};
pub use store::{SecretError, SecretReceiver, SecretStore, StoreError, read as read_secret};
pub use token::PrecheckError;
pub use trust::{Phase, Trust, TrustReceiver};

use crate::kubernetes::{FIELD_MANAGER, MANAGED_BY};

/// Labels of every object that the controller creates.
fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([(MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned())])
}

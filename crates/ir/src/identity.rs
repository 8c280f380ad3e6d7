//! Workload identities: SPIFFE IDs with a namespace and a service account.
//!
//! Source: the SPIFFE ID specification, sections 2.1 and 2.2 (trust domain and path).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The trust domain of a mesh, such as `cluster.local`: lower-case letters, digits, `.`, `-` and
/// `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a trust domain.
    ///
    /// # Errors
    ///
    /// If the name is empty, longer than 255 bytes, or has a character that the specification does
    /// not allow.
    pub fn new(name: &str) -> Result<Self, IdentityError> {
        let legal =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > 255 || !name.bytes().all(legal) {
            return Err(IdentityError::TrustDomain(name.to_owned()));
        }
        Ok(Self(name.into()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    account: Arc<str>,
}

/// The text is not a valid identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The trust domain is invalid.
    #[error("trust domain {0:?} is not made of lower-case letters, digits, '.', '-' and '_'")]
    TrustDomain(String),
    /// The text is not an identity of this form.
    #[error("{0:?} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<account>")]
    Form(String),
}

impl Identity {
    /// Returns the identity of a service account.
    ///
    /// # Errors
    ///
    /// If the namespace or the account has a character that Kubernetes does not allow in their
    /// names.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        account: &str,
    ) -> Result<Self, IdentityError> {
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let legal_dotted = |b: u8| legal(b) || b == b'.';
        let namespace_ok = (1..=63).contains(&namespace.len()) && namespace.bytes().all(legal);
        let account_ok = (1..=253).contains(&account.len())
            && account.bytes().all(legal_dotted)
            && account.split('.').all(|label| !label.is_empty());
        if !namespace_ok || !account_ok {
            return Err(IdentityError::Form(format!(
                "spiffe://{trust_domain}/ns/{namespace}/sa/{account}"
            )));
        }
        Ok(Self {
            trust_domain,
            namespace: namespace.into(),
            account: account.into(),
        })
    }

    /// Returns the trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Returns the namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the service account.
    pub fn account(&self) -> &str {
        &self.account
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.account
        )
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || IdentityError::Form(text.to_owned());
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(form());
        };
        Self::new(TrustDomain::new(domain)?, namespace, account).map_err(|_| form())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_round_trip() {
        let id = Identity::new(
            TrustDomain::new("cluster.local").unwrap(),
            "shop",
            "reviews.v2",
        )
        .unwrap();
        assert_eq!(
            id.to_string(),
            "spiffe://cluster.local/ns/shop/sa/reviews.v2"
        );
        assert_eq!(id.to_string().parse::<Identity>().unwrap(), id);
    }

    #[test]
    fn invalid_identities_are_rejected() {
        for text in [
            "",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns/a/sa/..",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:80/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://cluster.local/ns/a%2e/sa/b",
            "spiffe:///ns/a/sa/b",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text}");
        }
    }
}

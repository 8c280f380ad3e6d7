//! Who signed in: the token of a request is found and verified, and its claims become headers.
//!
//! [`Authenticators`] makes an [`Authenticator`] of each policy on tokens, and is shared by all
//! connections. An authenticator with the same content is the same one, so that tokens which it has
//! verified stay known. A request costs at most one check of a signature for each policy, and a
//! token that was verified before costs a hash and a look-up.
//!
//! Source: RFC 7515, 7519, 8725 (JSON Web Tokens), RFC 6750 (bearer tokens).

mod cache;
mod claims;
mod find;
mod token;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use http::request::Parts;
use weft_ir::{Authentication, Claims};

use crate::spellings;
use cache::{TokenCache, TokenKey};
pub use token::TokenError;

/// Bytes of a token; a longer one is refused.
pub const MAX_TOKEN: usize = 8 << 10;

/// The authenticators of this proxy; clones are the same.
#[derive(Clone, Default)]
pub struct Authenticators(Arc<Shared>);

#[derive(Default)]
struct Shared {
    last: AtomicU64,
    cache: Arc<TokenCache>,
    known: Mutex<Vec<Weak<Authenticator>>>,
}

/// Verifies the tokens of requests to one target, by one policy.
pub struct Authenticator {
    /// Tokens are cached under it.
    id: u64,
    of: Arc<Authentication>,
    issuers: Vec<Arc<str>>,
    cache: Arc<TokenCache>,
}

/// A token that was verified.
#[derive(Clone)]
pub struct Verified {
    pub claims: Arc<Claims>,
    /// The position of its provider.
    provider: usize,
    /// Seconds since 1970 from which it is no longer valid.
    expires: u64,
}

impl Authenticators {
    /// Returns the authenticator for `of`: the one that exists, if its content is the same.
    pub fn get(&self, of: &Arc<Authentication>) -> Arc<Authenticator> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|one| one.strong_count() > 0);
        let same = known
            .iter()
            .filter_map(Weak::upgrade)
            .find(|one| *one.of == **of);
        if let Some(same) = same {
            return same;
        }
        let issuers = of.providers.iter().map(|of| Arc::from(&*of.issuer));
        let made = Arc::new(Authenticator {
            id: self.0.last.fetch_add(1, Ordering::Relaxed),
            issuers: issuers.collect(),
            of: of.clone(),
            cache: self.0.cache.clone(),
        });
        known.push(Arc::downgrade(&made));
        made
    }
}

impl Authenticator {
    /// Verifies the token of a request, and sets the headers that its claims become. What the
    /// client sends in these is removed in any case. Returns `None` if the request has no token and
    /// needs none.
    pub fn authenticate(&self, head: &mut Parts) -> Result<Option<Verified>, TokenError> {
        let found = find::token(&self.of.providers, head);
        let verified = match found {
            Ok(Some(token)) => self.verify(token, now()).map(Some),
            Ok(None) if self.of.required => Err(TokenError::Absent),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let set = self.of.providers.iter().flat_map(|of| &of.claim_headers);
        spellings::remove(&mut head.headers, set.map(|of| &of.header));
        if let Ok(Some(verified)) = &verified
            && let Some(provider) = self.of.providers.get(verified.provider)
        {
            claims::set_headers(&verified.claims, &provider.claim_headers, &mut head.headers);
        }
        verified
    }

    fn verify(&self, text: &str, now: u64) -> Result<Verified, TokenError> {
        if text.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let key = TokenKey::new(self.id, text);
        if let Some(known) = self.cache.get(&key, now) {
            return Ok(known);
        }
        let verified = token::verify(text, &self.of.providers, &self.issuers, now)?;
        self.cache.insert(key, verified.clone(), text.len(), now);
        Ok(verified)
    }

    /// Removes the token from a request that is allowed, if it is not to be forwarded.
    pub fn remove_token(&self, verified: &Verified, head: &mut Parts) {
        if let Some(provider) = self.of.providers.get(verified.provider)
            && !provider.forward
        {
            find::remove(&provider.locations, head);
        }
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

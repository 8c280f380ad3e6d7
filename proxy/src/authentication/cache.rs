//! The tokens that were verified, by their hash. What is refused never enters, so that clients
//! without a valid token cannot push others out.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

use super::Verified;

const SHARDS: usize = 8;
/// Tokens in one shard.
const TOKENS: usize = 512;
/// Bytes of the tokens in one shard; parsed claims take several times as much.
const BYTES: usize = 256 << 10;

/// The hash of a token, with the authenticator that verified it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    authenticator: u64,
    hash: [u8; 32],
}

impl TokenKey {
    pub(super) fn new(authenticator: u64, token: &str) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(token.as_bytes());
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self {
            authenticator,
            hash,
        }
    }
}

#[derive(Default)]
pub(super) struct TokenCache([Mutex<Shard>; SHARDS]);

#[derive(Default)]
struct Shard {
    tokens: HashMap<TokenKey, (Verified, usize)>,
    /// The oldest first.
    order: VecDeque<TokenKey>,
    bytes: usize,
}

impl TokenCache {
    /// Returns a token that is still valid.
    pub(super) fn get(&self, key: &TokenKey, now: u64) -> Option<Verified> {
        let shard = self.shard(key)?;
        let (known, _) = shard.tokens.get(key)?;
        (now < known.expires).then(|| known.clone())
    }

    pub(super) fn insert(&self, key: TokenKey, verified: Verified, bytes: usize, now: u64) {
        let Some(mut shard) = self.shard(&key) else {
            return;
        };
        if shard
            .tokens
            .get(&key)
            .is_some_and(|(of, _)| now < of.expires)
        {
            return;
        }
        match shard.tokens.insert(key, (verified, bytes)) {
            Some((_, before)) => shard.bytes -= before.min(shard.bytes),
            None => shard.order.push_back(key),
        }
        shard.bytes += bytes;
        while shard.order.len() > TOKENS || shard.bytes > BYTES {
            let Some(oldest) = shard.order.pop_front() else {
                break;
            };
            if let Some((_, bytes)) = shard.tokens.remove(&oldest) {
                shard.bytes -= bytes.min(shard.bytes);
            }
        }
    }

    fn shard(&self, key: &TokenKey) -> Option<MutexGuard<'_, Shard>> {
        let shard = self.0.get(usize::from(key.hash[0]) % SHARDS)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let shards = self.0.iter().map(|of| of.lock().unwrap());
        shards.map(|of| of.tokens.len()).sum()
    }
}

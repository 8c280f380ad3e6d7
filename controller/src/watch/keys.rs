//! The key sets that were fetched for AuthenticationPolicies: every replica reads them from one
//! ConfigMap, so that the last good keys outlive an outage of an issuer and a restart of the
//! controller, and all proxies get the same.

use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use tokio_util::sync::CancellationToken;
use weft_translate::objects::FetchedKeys;

use super::World;

/// The ConfigMap, in the controller's namespace.
pub const CONFIG_MAP: &str = "weft-token-keys";
/// Its key: a JSON list.
pub const KEY: &str = "keys.json";

/// The key sets as last read.
#[derive(Debug, Default)]
pub struct KeyStore(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    listed: bool,
    keys: Vec<Arc<FetchedKeys>>,
}

impl KeyStore {
    /// Returns true once the ConfigMap has been looked for.
    pub fn listed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).listed
    }

    pub fn objects(&self) -> Vec<Arc<FetchedKeys>> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.keys.clone()
    }

    /// Nothing is fetched: no process of this kind needs the keys.
    pub fn absent(&self) {
        self.set(Some(Vec::new()));
    }

    /// Takes what was read; `None`: it cannot be read now, and what was read before stays. Sets
    /// that did not change are the same `Arc`. Returns true if anything changed.
    fn set(&self, now: Option<Vec<FetchedKeys>>) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was_listed = std::mem::replace(&mut state.listed, true);
        let Some(now) = now else {
            return !was_listed;
        };
        let before = std::mem::take(&mut state.keys);
        let changed = before.len() != now.len()
            || before
                .iter()
                .zip(&now)
                .any(|(before, now)| **before != *now);
        let same = |of: FetchedKeys| {
            let known = before.iter().find(|known| ***known == of);
            known.cloned().unwrap_or_else(|| Arc::new(of))
        };
        state.keys = now.into_iter().map(same).collect();
        changed || !was_listed
    }
}

/// Text that cannot be read holds no keys.
pub fn decode(map: Option<&ConfigMap>) -> Vec<FetchedKeys> {
    let data = map.and_then(|map| map.data.as_ref());
    let text = data.and_then(|data| data.get(KEY));
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Keeps the store as the ConfigMap has it, until `stop`. What was read stays while the watch is
/// interrupted.
pub async fn follow(client: Client, namespace: String, world: Arc<World>, stop: CancellationToken) {
    let api = Api::<ConfigMap>::namespaced(client, &namespace);
    let mut changes = Box::pin(watch_object(api, CONFIG_MAP).default_backoff());
    while let Some(Some(change)) = stop.run_until_cancelled(changes.next()).await {
        let read = match change {
            Ok(map) => Some(decode(map.as_ref())),
            Err(error) => {
                tracing::warn!(
                    config_map = CONFIG_MAP, namespace, %error,
                    "watch of the keys of token issuers interrupted: going on with the last ones \
                     and trying again; check that the controller's account may list and watch this \
                     ConfigMap"
                );
                None
            }
        };
        if world.fetched_keys.set(read) {
            world.changes.objects.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(uri: &str, jwks: Option<&str>) -> FetchedKeys {
        serde_json::from_value(serde_json::json!({ "uri": uri, "jwks": jwks })).unwrap()
    }

    #[test]
    fn known_keys_stay_while_the_config_map_cannot_be_read() {
        let store = KeyStore::default();
        assert!(!store.listed());
        assert!(store.set(None) && store.listed());
        assert!(store.set(Some(vec![keys("a", Some("1")), keys("b", None)])));
        let before = store.objects();
        assert!(!store.set(None));
        assert!(!store.set(Some(vec![keys("a", Some("1")), keys("b", None)])));
        assert!(store.set(Some(vec![keys("a", Some("1")), keys("b", Some("2"))])));
        let now = store.objects();
        assert!(Arc::ptr_eq(&before[0], &now[0]) && !Arc::ptr_eq(&before[1], &now[1]));
    }

    #[test]
    fn config_map_is_read_as_it_was_written() {
        let all = vec![keys("a", Some("1")), keys("b", None)];
        let text = serde_json::to_string(&all).unwrap();
        let map = |text: &str| ConfigMap {
            data: Some([(KEY.to_owned(), text.to_owned())].into()),
            ..ConfigMap::default()
        };
        assert_eq!(decode(Some(&map(&text))), all);
        assert_eq!(decode(Some(&map("no JSON"))), []);
        assert_eq!(decode(None), []);
    }
}

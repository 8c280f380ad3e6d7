//! The content of the ConfigMap, and the namespaces where it is outdated. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::ResourceExt;

/// The ConfigMap's name.
pub const CONFIG_MAP: &str = "weft-roots";
/// The ConfigMap's key with the roots.
pub const KEY: &str = "ca.crt";
/// The ConfigMap's key with the addresses, one in each line.
pub const ADDRESSES: &str = "controller";

/// The data of the ConfigMap.
pub(super) type Data = BTreeMap<String, String>;

/// Returns the wanted namespaces whose ConfigMap is absent or has other data. Keys of other writers
/// are ignored.
pub fn outdated_namespaces<'a>(
    wanted: &'a BTreeSet<String>,
    present: &BTreeMap<String, Data>,
    data: &Data,
) -> Vec<&'a str> {
    let same = |there: &Data| {
        let mut keys = [KEY, ADDRESSES].into_iter();
        keys.all(|key| there.get(key) == data.get(key))
    };
    wanted
        .iter()
        .filter(|namespace| !present.get(*namespace).is_some_and(same))
        .map(String::as_str)
        .collect()
}

/// Returns the data of the ConfigMaps, by namespace.
pub(super) fn present(maps: &[Arc<ConfigMap>]) -> BTreeMap<String, Data> {
    maps.iter()
        .filter_map(|map| Some((map.namespace()?, map.data.clone().unwrap_or_default())))
        .collect()
}

/// Returns the wanted data.
pub(super) fn data(roots: &str, services: &[Arc<Service>]) -> Data {
    let mut data = Data::from([(KEY.to_owned(), roots.to_owned())]);
    let addresses = services.iter().filter_map(|service| service.spec.as_ref());
    let addresses: Vec<&str> = addresses
        .flat_map(|spec| spec.cluster_ips.iter().flatten())
        .map(String::as_str)
        // A headless Service has `None` there.
        .filter(|address| address.parse::<IpAddr>().is_ok())
        .collect();
    if !addresses.is_empty() {
        data.insert(ADDRESSES.to_owned(), addresses.join("\n"));
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ips: &[&str]) -> Arc<Service> {
        let spec = serde_json::json!({ "spec": { "clusterIPs": ips } });
        Arc::new(serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn namespaces_with_absent_or_other_data_are_outdated() {
        let wanted = ["absent", "edited", "empty", "moved", "right"].map(str::to_owned);
        let of = |roots: &str, ip: &str| data(roots, &[service(&[ip])]);
        let mut right = of("text", "10.0.0.1");
        right.insert("theirs".to_owned(), "more".to_owned());
        let present = BTreeMap::from([
            ("edited".to_owned(), of("other", "10.0.0.1")),
            ("empty".to_owned(), Data::new()),
            ("moved".to_owned(), of("text", "10.0.0.2")),
            ("right".to_owned(), right),
            ("unwanted".to_owned(), of("other", "10.0.0.1")),
        ]);
        let wanted = wanted.into_iter().collect();
        assert_eq!(
            outdated_namespaces(&wanted, &present, &of("text", "10.0.0.1")),
            ["absent", "edited", "empty", "moved"]
        );
    }

    #[test]
    fn addresses_are_of_both_families_or_absent() {
        let both = data("", &[service(&["10.0.0.1", "fd00::1"])]);
        assert_eq!(
            both.get(ADDRESSES).map(String::as_str),
            Some("10.0.0.1\nfd00::1")
        );
        for none in [&[][..], &["None"]] {
            assert_eq!(data("", &[service(none)]).get(ADDRESSES), None);
        }
        assert_eq!(data("", &[]).get(ADDRESSES), None);
    }
}

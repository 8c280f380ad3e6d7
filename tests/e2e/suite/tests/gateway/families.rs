//! Gateways have an address of each IP family of the cluster and serve the same on each.

cluster_tests! {
    run Unmeshed gateway_serves_on_each_ip_family;
    run Unmeshed gateway_gets_its_requested_address;
}

mod cases {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use serde_json::json;
    use weft_e2e::gateways::{gateway, https, listener, tls_secret};
    use weft_e2e::host::{curl, get, in_url};
    use weft_e2e::https_client::SelfSigned;
    use weft_e2e::{TestNamespace, eventually, objects};

    async fn addresses(ns: &TestNamespace, name: &str) -> anyhow::Result<Vec<String>> {
        let gateway = ns.get(objects::GATEWAY, "Gateway", name).await?;
        let all = gateway["status"]["addresses"].as_array().cloned();
        let all = all.unwrap_or_default();
        let values = all.iter().filter_map(|one| one["value"].as_str());
        Ok(values.map(str::to_owned).collect())
    }

    pub(super) async fn gateway_serves_on_each_ip_family(ns: &TestNamespace) -> anyhow::Result<()> {
        let host = "shop.example.com";
        let pair = SelfSigned::new(&[host])?;
        ns.apply(tls_secret("cert", &pair.certificate, &pair.key))
            .await?;
        let listeners = json!([listener("http", "HTTP", 80), https("https", host, "cert")]);
        ns.deploy_gateway(gateway("edge", listeners)).await?;
        let families = ns.families().await?;
        let all = eventually("an address of each family", async || {
            let all = addresses(ns, "edge").await?;
            let has: Vec<&str> = all.iter().map(|ip| objects::address_type(ip)).collect();
            anyhow::ensure!(
                has == families,
                "the Gateway has {all:?}, the cluster {families:?}"
            );
            Ok(all)
        })
        .await?;
        for address in &all {
            eventually(&format!("{address} to serve"), async || {
                let reply = get(address, 80, "any", "/reviews/1").await?;
                anyhow::ensure!(reply.is(200)?.json()?["version"] == "v1", "{reply:?}");
                let resolve = format!("{host}:443:{}", in_url(address));
                let url = format!("https://{host}/reviews/1");
                let reply = curl(&["--insecure", "--resolve", &resolve, &url]).await?;
                reply.is(200).map(drop)
            })
            .await?;
        }
        Ok(())
    }

    /// Returns an address of the same range that the load balancer assigns last, so that no other
    /// test has it.
    fn unused_address(address: &str) -> anyhow::Result<String> {
        Ok(match address.parse()? {
            IpAddr::V4(four) => {
                let [a, b, c, _] = four.octets();
                Ipv4Addr::from([a, b, c, 240]).to_string()
            }
            IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() & !0xff | 0xf0).to_string(),
        })
    }

    /// Repeated for each IP family.
    pub(super) async fn gateway_gets_its_requested_address(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let plain = |name: &str| gateway(name, json!([listener("http", "HTTP", 80)]));
        ns.gateway(plain("first")).await?;
        for (number, given) in addresses(ns, "first").await?.iter().enumerate() {
            let (name, wish) = (format!("next-{number}"), unused_address(given)?);
            let mut next = plain(&name);
            next["spec"]["addresses"] = json!([{"type": "IPAddress", "value": wish}]);
            ns.gateway(next).await?;
            let has = addresses(ns, &name).await?;
            anyhow::ensure!(
                has == [wish.as_str()],
                "the Gateway has {has:?} instead of {wish}"
            );
        }
        Ok(())
    }
}

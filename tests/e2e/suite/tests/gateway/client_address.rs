//! The client address that backends get from a gateway, for each kind of load balancer in front of
//! it, and with forged headers.

cluster_tests! {
    run Unmeshed forged_forwarding_headers_are_replaced;
    run Unmeshed forwarding_headers_are_trusted_up_to_trusted_hops;
    run Unmeshed proxy_protocol_v1_and_v2_give_the_client_address;
    run Unmeshed external_traffic_policy_local_keeps_the_client_address;
}

mod cases {
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    use anyhow::Context;
    use serde_json::{Value, json};
    use weft_e2e::gateways::{gateway, https, listener, parameters, tls_secret, with_parameters};
    use weft_e2e::host::{curl, in_url, own_address};
    use weft_e2e::https_client::SelfSigned;
    use weft_e2e::load_balancer::{LoadBalancer, REQUEST_ID};
    use weft_e2e::{TestNamespace, eventually};

    /// The client's address at a proxy on this machine; no other client has it.
    const CLIENT: &str = "127.0.0.71";
    /// A documentation address (RFC 5737) that forged headers contain.
    const FORGED_ADDRESS: &str = "203.0.113.7";
    const FORGED_HEADERS: [&str; 6] = [
        "x-forwarded-for: 203.0.113.7",
        "x-forwarded-proto: ftp",
        "x-forwarded-host: bank.example.com",
        "forwarded: for=203.0.113.7;proto=ftp;host=bank.example.com",
        "x-real-ip: 203.0.113.7",
        "x-request-id: foretold",
    ];

    fn plain() -> Value {
        gateway("edge", json!([listener("http", "HTTP", 80)]))
    }

    /// Returns the request headers that the backend received.
    async fn seen(url: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let reply = curl(&[arguments, &[url]].concat()).await?;
        Ok(reply.is(200)?.json()?["headers"].clone())
    }

    /// Returns the entries of X-Forwarded-For; fails unless each is an address.
    fn forwarded_for(seen: &Value) -> anyhow::Result<Vec<IpAddr>> {
        let text = seen["x-forwarded-for"].as_str();
        let text = text.with_context(|| format!("no X-Forwarded-For: {seen}"))?;
        let entries = text.split(',').map(|entry| entry.trim().parse());
        entries
            .collect::<Result<_, _>>()
            .with_context(|| format!("X-Forwarded-For has an entry that is no address: {seen}"))
    }

    /// Fails unless X-Forwarded-For has exactly these addresses before its last one, which is the
    /// gateway's own client.
    fn check_entries_before_last(of: &[&str], seen: &Value) -> anyhow::Result<()> {
        let addresses: Vec<String> = forwarded_for(seen)?.iter().map(IpAddr::to_string).collect();
        let (_, before) = addresses.split_last().context("no entry")?;
        anyhow::ensure!(before == of, "{of:?} should precede the last entry: {seen}");
        Ok(())
    }

    fn with_forged_headers<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
        let claims = FORGED_HEADERS.iter().flat_map(|claim| ["--header", claim]);
        arguments.iter().copied().chain(claims).collect()
    }

    pub(super) async fn forged_forwarding_headers_are_replaced(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let address = ns.deploy_gateway(plain()).await?;
        let url = format!("http://{}/reviews/1", in_url(&address));
        let seen = eventually("a response", async || {
            seen(&url, &with_forged_headers(&[])).await
        })
        .await?;
        let headers = seen.to_string();
        for lie in [FORGED_ADDRESS, "bank.example.com", "foretold", "ftp"] {
            anyhow::ensure!(!headers.contains(lie), "{lie} was forwarded: {headers}");
        }
        check_entries_before_last(&[], &seen)?;
        let client = forwarded_for(&seen)?[0].to_string();
        anyhow::ensure!(seen["x-forwarded-proto"] == "http", "{headers}");
        anyhow::ensure!(seen["x-forwarded-host"] == *in_url(&address), "{headers}");
        anyhow::ensure!(seen["x-real-ip"] == *client, "{headers}");
        let forwarded = seen["forwarded"].as_str().unwrap_or_default();
        // RFC 7239, 6: IPv6 addresses are in brackets, and values with brackets in quotes.
        let node = if client.contains(':') {
            format!("for=\"[{client}]\"")
        } else {
            format!("for={client}")
        };
        anyhow::ensure!(forwarded.contains(&node), "{headers}");
        let id = seen["x-request-id"].as_str().unwrap_or_default();
        anyhow::ensure!(id.len() == 36, "x-request-id is not a UUID: {headers}");
        Ok(())
    }

    /// One and two HTTP proxies in front of the gateway, with `trustedHops` correct, too low and
    /// too high.
    pub(super) async fn forwarding_headers_are_trusted_up_to_trusted_hops(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let hops = async |count: u32| {
            ns.apply(parameters(
                "edge",
                json!({"trustedHops": count.to_string()}),
            ))
            .await
        };
        hops(0).await?;
        let address = ns.deploy_gateway(with_parameters(plain(), "edge")).await?;
        let one = LoadBalancer::with_forwarded_headers(&format!("{}:80", in_url(&address))).await?;
        let two = LoadBalancer::with_forwarded_headers(&format!("127.0.0.1:{}", one.port)).await?;
        let as_client = ["--interface", CLIENT];
        let honest = &as_client.to_vec();
        let liar = &with_forged_headers(&as_client);
        for (count, through, arguments, addresses) in [
            (0, &one, liar, &[][..]),
            (1, &one, liar, &[CLIENT]),
            (1, &one, honest, &[CLIENT]),
            // Too low: the second proxy is taken for the client.
            (1, &two, liar, &["127.0.0.1"]),
            (2, &two, liar, &[CLIENT, "127.0.0.1"]),
            (2, &two, honest, &[CLIENT, "127.0.0.1"]),
            // Too high: the client's forged value is trusted if there is one, else none is.
            (2, &one, liar, &[FORGED_ADDRESS, CLIENT]),
            (2, &one, honest, &[]),
        ] {
            hops(count).await?;
            let url = format!("http://127.0.0.1:{}/reviews/1", through.port);
            let what = format!("{addresses:?} with {count} trusted hops");
            eventually(&what, async || {
                let seen = seen(&url, arguments).await?;
                check_entries_before_last(addresses, &seen)?;
                let believed = !addresses.is_empty();
                let proto = if believed { "https" } else { "http" };
                anyhow::ensure!(seen["x-forwarded-proto"] == proto, "{seen}");
                anyhow::ensure!((seen["x-request-id"] == REQUEST_ID) == believed, "{seen}");
                if arguments.len() > honest.len() {
                    let client = forwarded_for(&seen)?[0].to_string();
                    anyhow::ensure!(seen["x-real-ip"] == *client, "{seen}");
                }
                let forwarded = seen["forwarded"].as_str().unwrap_or_default();
                let elements = forwarded.matches("for=").count();
                anyhow::ensure!(elements == addresses.len() + 1, "{seen}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn proxy_protocol_v1_and_v2_give_the_client_address(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let host = "shop.example.com";
        let pair = SelfSigned::new(&[host])?;
        ns.apply(tls_secret("cert", &pair.certificate, &pair.key))
            .await?;
        let listeners = json!([listener("http", "HTTP", 80), https("https", host, "cert")]);
        let edge = gateway("edge", listeners);
        let address = ns.deploy_gateway(edge.clone()).await?;
        let address = in_url(&address);
        let direct = format!("http://{address}/reviews/1");
        let mut fronts = Vec::new();
        for header in ["send-proxy", "send-proxy-v2"] {
            for port in [80, 443] {
                let load_balancer =
                    LoadBalancer::with_proxy_protocol(&format!("{address}:{port}"), header).await?;
                fronts.push((header, port, load_balancer));
            }
        }
        let through = async |port: u16, load_balancer: &LoadBalancer| {
            let at = load_balancer.port;
            let resolve = format!("{host}:{at}:127.0.0.1");
            let scheme = if port == 443 { "https" } else { "http" };
            let url = format!("{scheme}://{host}:{at}/reviews/1");
            let arguments = ["--insecure", "--interface", CLIENT, "--resolve", &resolve];
            seen(&url, &arguments).await
        };
        // Without the setting, the header is neither HTTP nor TLS.
        eventually("a response", async || seen(&direct, &[]).await.map(drop)).await?;
        for (header, port, load_balancer) in &fronts {
            let answer = through(*port, load_balancer).await;
            anyhow::ensure!(
                answer.is_err(),
                "{header} was accepted on {port}: {answer:?}"
            );
        }
        ns.apply(parameters("edge", json!({"proxyProtocol": "true"})))
            .await?;
        ns.gateway(with_parameters(edge, "edge")).await?;
        for (header, port, load_balancer) in &fronts {
            eventually(&format!("{header} on {port}"), async || {
                let seen = through(*port, load_balancer).await?;
                anyhow::ensure!(seen["x-forwarded-for"] == CLIENT, "{seen}");
                Ok(())
            })
            .await?;
        }
        // A connection without the header would have the load balancer's address.
        let without = curl(&[&direct]).await;
        anyhow::ensure!(
            without.is_err(),
            "served without a PROXY protocol header: {without:?}"
        );
        let resolve = format!("{host}:443:{address}");
        let url = format!("https://{host}/reviews/1");
        let without = curl(&["--insecure", "--resolve", &resolve, &url]).await;
        anyhow::ensure!(
            without.is_err(),
            "served without a PROXY protocol header: {without:?}"
        );
        Ok(())
    }

    /// Without a load balancer of its own: from the Service's address, and from its node port on
    /// every node.
    pub(super) async fn external_traffic_policy_local_keeps_the_client_address(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let wishes = json!({"externalTrafficPolicy": "Local", "replicas": "2"});
        ns.apply(parameters("edge", wishes)).await?;
        let address = ns.deploy_gateway(with_parameters(plain(), "edge")).await?;
        let pods = ns.gateway_pods("edge", 2).await?;
        let nodes: BTreeSet<_> = pods
            .iter()
            .filter_map(|pod| pod["status"]["hostIP"].as_str())
            .collect();
        let of_cluster = ns.list("v1", "Node", "").await?.len();
        anyhow::ensure!(
            nodes.len() == pods.len().min(of_cluster),
            "the replicas are not spread: they are on {nodes:?}, the cluster has {of_cluster} nodes"
        );
        let service = ns.get("v1", "Service", "edge-weft").await?;
        let port = &service["spec"]["ports"][0]["nodePort"];
        let nodes = nodes.into_iter().map(|node| (node, port.to_string()));
        for (at, port) in nodes.chain([(&*address, "80".to_owned())]) {
            let own = own_address(at)?;
            let at = in_url(at);
            eventually(
                &format!("{at}:{port} to report the client address {own}"),
                async || {
                    let seen = seen(&format!("http://{at}:{port}/reviews/1"), &[]).await?;
                    anyhow::ensure!(forwarded_for(&seen)? == [own], "{seen}");
                    Ok(())
                },
            )
            .await?;
        }
        Ok(())
    }
}

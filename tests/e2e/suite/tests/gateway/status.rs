//! Conditions of Gateways with invalid listeners or addresses: the reason, and a message with the
//! cause and the fix.

cluster_tests! {
    run Unmeshed invalid_listeners_get_their_conditions;
    run Unmeshed invalid_listener_sets_get_their_conditions;
    run Unmeshed unusable_gateway_address_is_reported;
    run Unmeshed kubectl_shows_gateway_class_address_and_routes;
}

mod cases {
    use serde_json::{Value, json};
    use weft_e2e::gateways::{
        gateway, https, listener, listener_conditions, tls_secret, top_conditions,
    };
    use weft_e2e::host::kubectl;
    use weft_e2e::https_client::SelfSigned;
    use weft_e2e::{TestNamespace, eventually, objects};

    use crate::condition_table::{Row, rows, with};

    fn bad_listeners() -> Value {
        let refers = |reference: Value| json!({"certificateRefs": [reference]});
        let elsewhere = refers(json!({"name": "theirs", "namespace": "kube-system"}));
        let map = refers(json!({"kind": "ConfigMap", "name": "map"}));
        let kinds = json!({"kinds": [{"kind": "TCPRoute"}]});
        let odd = json!([{"key": "team", "operator": "Resembles", "values": ["a"]}]);
        let odd =
            json!({"namespaces": {"from": "Selector", "selector": {"matchExpressions": odd}}});
        let ended = with(
            with(
                listener("ended", "TLS", 8443),
                "hostname",
                json!("a.example.com"),
            ),
            "tls",
            refers(json!({"name": "good"})),
        );
        let web = with(https("web", "a.example.com", "good"), "port", json!(8443));
        json!([
            listener("good", "HTTP", 80),
            https("absent", "absent.example.com", "nothing"),
            https("malformed", "malformed.example.com", "malformed"),
            https("mismatched", "mismatched.example.com", "mismatched"),
            with(https("denied", "denied.example.com", ""), "tls", elsewhere),
            with(https("map", "map.example.com", ""), "tls", map),
            listener("first", "HTTP", 8082),
            listener("second", "TCP", 8082),
            web,
            ended,
            listener("taken", "TCP", 15021),
            listener("odd", "example.com/ODD", 8083),
            with(listener("kinds", "HTTP", 8084), "allowedRoutes", kinds),
            with(listener("selector", "HTTP", 8085), "allowedRoutes", odd),
        ])
    }

    const LISTENERS: &str = "
        good       | Programmed   | Programmed            |
        absent     | ResolvedRefs | InvalidCertificateRef | Secret; /nothing; does not exist; create it; kubernetes.io/tls
        absent     | Programmed   | Invalid               | no certificate
        malformed  | ResolvedRefs | InvalidCertificateRef | Secret; /malformed; tls.crt
        mismatched | ResolvedRefs | InvalidCertificateRef | Secret; /mismatched; tls.key; tls.crt
        denied     | ResolvedRefs | RefNotPermitted       | ReferenceGrant; kube-system; theirs
        map        | ResolvedRefs | InvalidCertificateRef | kind ConfigMap; not supported; a Secret
        first      | Conflicted   | ProtocolConflict      | second; 8082; choose another port
        second     | Accepted     | ProtocolConflict      | first; 8082; choose another port
        web        | Conflicted   | HostnameConflict      | ended; 8443; a.example.com; choose another hostname or port
        ended      | Accepted     | HostnameConflict      | web; 8443; a.example.com; choose another hostname or port
        taken      | Accepted     | PortUnavailable       | 15021; choose another
        odd        | Accepted     | UnsupportedProtocol   | example.com/ODD; HTTP, HTTPS, TLS, TCP, UDP
        kinds      | ResolvedRefs | InvalidRouteKinds     | TCPRoute; HTTPRoute
        selector   | Accepted     | UnsupportedValue      | allowedRoutes.namespaces; Resembles; In, NotIn, Exists, DoesNotExist
    ";

    async fn check_listener(
        ns: &TestNamespace,
        (kind, name): (&str, &str),
        row: Row<'_>,
    ) -> anyhow::Result<()> {
        eventually(row.name, async || {
            let object = ns.get(objects::GATEWAY, kind, name).await?;
            row.check(&listener_conditions(&object, row.name)?)
        })
        .await
    }

    async fn check_conditions(ns: &TestNamespace, kind: &str, table: &str) -> anyhow::Result<()> {
        for row in rows(table) {
            eventually(row.name, async || {
                let object = ns.get(objects::GATEWAY, kind, row.name).await?;
                row.check(&top_conditions(&object)?)
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn invalid_listeners_get_their_conditions(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let pairs = [
            SelfSigned::new(&["a.example.com"])?,
            SelfSigned::new(&["a.example.com"])?,
        ];
        for (name, certificate, key) in [
            ("good", &*pairs[0].certificate, &*pairs[0].key),
            ("malformed", "not a certificate", "not a key"),
            ("mismatched", &pairs[0].certificate, &pairs[1].key),
        ] {
            ns.apply(tls_secret(name, certificate, key)).await?;
        }
        ns.apply(gateway("table", bad_listeners())).await?;
        let nothing = json!([listener("odd", "example.com/ODD", 8083)]);
        ns.apply(gateway("nothing", nothing)).await?;
        for row in rows(LISTENERS) {
            check_listener(ns, ("Gateway", "table"), row).await?;
        }
        let gateways = "
            table   | Accepted   | ListenersNotValid | taken; odd; web; selector
            nothing | Accepted   | ListenersNotValid | no listener is valid; odd; example.com/ODD
            nothing | Programmed | Invalid           | not accepted
        ";
        check_conditions(ns, "Gateway", gateways).await
    }

    /// Returns a ListenerSet for a Gateway.
    fn set(name: &str, gateway: &str, listeners: Value) -> Value {
        json!({
            "apiVersion": objects::GATEWAY, "kind": "ListenerSet", "metadata": {"name": name},
            "spec": {"parentRef": {"name": gateway}, "listeners": listeners},
        })
    }

    pub(super) async fn invalid_listener_sets_get_their_conditions(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let own = json!([listener("http", "HTTP", 80)]);
        ns.apply(gateway("closed", own.clone())).await?;
        let mut open = gateway("open", own);
        open["spec"]["allowedListeners"] = json!({"namespaces": {"from": "Same"}});
        ns.apply(open).await?;
        let more = json!([
            listener("more", "HTTP", 80),
            listener("other", "HTTP", 8080)
        ]);
        ns.apply(set("beside", "open", more.clone())).await?;
        ns.apply(set("apart", "closed", more)).await?;
        let sets = "
            beside | Accepted | ListenersNotValid | in effect except for; more; http
            apart  | Accepted | NotAllowed        | /closed; allowedListeners.namespaces
        ";
        check_conditions(ns, "ListenerSet", sets).await?;
        let listeners = "
            more  | Conflicted | HostnameConflict | http; port 80; no hostname; choose another hostname or port
            more  | Accepted   | HostnameConflict | http
            other | Programmed | Programmed       |
        ";
        for row in rows(listeners) {
            check_listener(ns, ("ListenerSet", "beside"), row).await?;
        }
        // The Gateway's own listeners have precedence over its ListenerSets.
        let row = "http | Programmed | Programmed |";
        for row in rows(row) {
            check_listener(ns, ("Gateway", "open"), row).await?;
        }
        Ok(())
    }

    pub(super) async fn unusable_gateway_address_is_reported(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let http = |name: &str, address: Value| {
            let mut wishes = gateway(name, json!([listener("http", "HTTP", 80)]));
            wishes["spec"]["addresses"] = json!([address]);
            wishes
        };
        let taken = ns
            .gateway(gateway("first", json!([listener("http", "HTTP", 80)])))
            .await?;
        for (name, address) in [
            (
                "strange",
                json!({"type": "IPAddress", "value": "192.0.2.1"}),
            ),
            (
                "named",
                json!({"type": "example.com/named", "value": "one"}),
            ),
            ("taken", json!({"type": "IPAddress", "value": taken})),
        ] {
            ns.apply(http(name, address)).await?;
        }
        let gateways = format!(
            "
            strange | Programmed | AddressNotUsable   | 192.0.2.1; request addresses
            named   | Accepted   | UnsupportedAddress | example.com/named; IPAddress, Hostname
            taken   | Programmed | AddressNotUsable   | {taken}; used by Service {}/first-weft; request addresses
            ",
            ns.namespace
        );
        check_conditions(ns, "Gateway", &gateways).await?;
        // Once the address is corrected, the Gateway is programmed.
        let mended = gateway("taken", json!([listener("http", "HTTP", 80)]));
        ns.gateway(mended).await.map(drop)
    }

    pub(super) async fn kubectl_shows_gateway_class_address_and_routes(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        let address = ns
            .deploy_gateway(gateway("edge", json!([listener("http", "HTTP", 80)])))
            .await?;
        let shown = kubectl(&["-n", &ns.namespace, "get", "gateway", "edge"]).await?;
        let lines: Vec<Vec<&str>> = shown
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        anyhow::ensure!(lines.len() == 2, "{shown}");
        let columns = lines[0].iter().zip(&lines[1]);
        for (column, value) in [
            ("CLASS", "weft"),
            ("ADDRESS", &*address),
            ("PROGRAMMED", "True"),
        ] {
            let mut columns = columns.clone();
            anyhow::ensure!(columns.any(|of| of == (&column, &value)), "{shown}");
        }
        eventually("the attached route", async || {
            let described = ["-n", &ns.namespace, "describe", "gateway", "edge"];
            let described = kubectl(&described).await?;
            let words: Vec<&str> = described.split_whitespace().collect();
            let attached = words
                .windows(3)
                .any(|of| of == ["Attached", "Routes:", "1"]);
            anyhow::ensure!(attached, "{described}");
            Ok(())
        })
        .await
    }
}

//! What Gateways and routes that cannot work are told: the condition, its reason, and a message that names what is wrong
//! and what to do.

mesh_tests! {
    run Out listeners_that_cannot_serve;
    run Out routes_that_cannot_work;
    run Out an_address_that_cannot_be_had;
}

mod cases {
    use anyhow::Context;
    use serde_json::{Value, json};
    use weft_e2e::gateways::{
        CONTROLLER_NAME, gateway, https, listener, listener_conditions, route, tls_secret,
        top_conditions,
    };
    use weft_e2e::objects::{self, Conditions, to};
    use weft_e2e::{Bed, eventually};

    /// The condition, its reason, and what its message must name: the cause, and where there is one the cure.
    type Row<'a> = (&'a str, &'a str, &'a str, &'a [&'a str]);

    fn check(
        conditions: &Conditions,
        (name, condition, reason, words): Row<'_>,
    ) -> anyhow::Result<()> {
        let (_, seen, message) = conditions.of(condition)?;
        anyhow::ensure!(
            seen == reason,
            "{name}: {condition} should be {reason}: {conditions}"
        );
        for word in words {
            anyhow::ensure!(
                message.contains(word),
                "{name}: the message of {condition} should name {word:?}: {message}"
            );
        }
        Ok(())
    }

    fn with(mut listener: Value, field: &str, value: Value) -> Value {
        listener[field] = value;
        listener
    }

    fn bad_listeners() -> Value {
        let elsewhere =
            json!({"certificateRefs": [{"name": "theirs", "namespace": "kube-system"}]});
        json!([
            listener("good", "HTTP", 80),
            https("absent", "absent.example.com", "nothing"),
            https("malformed", "malformed.example.com", "malformed"),
            with(https("denied", "denied.example.com", ""), "tls", elsewhere),
            listener("first", "HTTP", 8082),
            listener("second", "TCP", 8082),
            listener("taken", "TCP", 15021),
            listener("odd", "example.com/ODD", 8083),
            with(
                listener("kinds", "HTTP", 8084),
                "allowedRoutes",
                json!({"kinds": [{"kind": "TCPRoute"}]})
            ),
        ])
    }

    const LISTENERS: [Row<'_>; 10] = [
        ("good", "Programmed", "Programmed", &[]),
        (
            "absent",
            "ResolvedRefs",
            "InvalidCertificateRef",
            &[
                "there is no Secret",
                "/nothing",
                "create it",
                "kubernetes.io/tls",
            ],
        ),
        ("absent", "Programmed", "Invalid", &["no certificate"]),
        (
            "malformed",
            "ResolvedRefs",
            "InvalidCertificateRef",
            &["Secret", "/malformed", "tls.crt"],
        ),
        (
            "denied",
            "ResolvedRefs",
            "RefNotPermitted",
            &["ReferenceGrant", "kube-system", "theirs"],
        ),
        (
            "first",
            "Conflicted",
            "ProtocolConflict",
            &["second", "8082", "choose another port"],
        ),
        (
            "second",
            "Accepted",
            "ProtocolConflict",
            &["first", "8082", "choose another port"],
        ),
        (
            "taken",
            "Accepted",
            "PortUnavailable",
            &["15021", "choose another"],
        ),
        (
            "odd",
            "Accepted",
            "UnsupportedProtocol",
            &["example.com/ODD", "HTTP, HTTPS, TLS, TCP, UDP"],
        ),
        (
            "kinds",
            "ResolvedRefs",
            "InvalidRouteKinds",
            &["TCPRoute", "HTTPRoute"],
        ),
    ];

    pub(super) async fn listeners_that_cannot_serve(bed: &Bed) -> anyhow::Result<()> {
        bed.apply(tls_secret("malformed", "not a certificate", "not a key"))
            .await?;
        bed.apply(gateway("table", bad_listeners())).await?;
        for row in LISTENERS {
            eventually(row.0, async || {
                let gateway = bed.get(objects::GATEWAY, "Gateway", "table").await?;
                check(&listener_conditions(&gateway, row.0)?, row)
            })
            .await?;
        }
        let gateway = bed.get(objects::GATEWAY, "Gateway", "table").await?;
        let conditions = top_conditions(&gateway)?;
        let words: &[&str] = &["taken", "odd"];
        check(
            &conditions,
            ("the Gateway", "Accepted", "ListenersNotValid", words),
        )
    }

    /// A route on the listener `open`, of one rule to a backend.
    fn http(name: &str, backend: Value) -> Value {
        route(
            "HTTPRoute",
            name,
            "edge",
            "open",
            json!([{"backendRefs": [backend]}]),
        )
    }

    fn on(name: &str, parent: Value) -> Value {
        let mut route = http(name, to("v1", 1));
        route["spec"]["parentRefs"] = json!([parent]);
        route
    }

    fn bad_routes() -> Vec<(Value, Row<'static>)> {
        let mut foreign_host = http("host", to("v1", 1));
        foreign_host["spec"]["hostnames"] = json!(["shop.example.org"]);
        let regex = json!([{
            "matches": [{"path": {"type": "RegularExpression", "value": "/a("}}], "backendRefs": [to("v1", 1)],
        }]);
        let elsewhere = json!({"name": "kube-dns", "namespace": "kube-system", "port": 53});
        vec![
            (
                http("works", to("v1", 1)),
                ("works", "Accepted", "Accepted", &[]),
            ),
            (
                on("section", json!({"name": "edge", "sectionName": "typo"})),
                (
                    "section",
                    "Accepted",
                    "NoMatchingParent",
                    &["no listener", "typo", "open"],
                ),
            ),
            (
                on("port", json!({"name": "edge", "port": 81})),
                (
                    "port",
                    "Accepted",
                    "NoMatchingParent",
                    &["no listener", "81", "80"],
                ),
            ),
            (
                on(
                    "namespace",
                    json!({"name": "edge", "sectionName": "closed"}),
                ),
                (
                    "namespace",
                    "Accepted",
                    "NotAllowedByListeners",
                    &["closed", "team=other", "allowedRoutes.namespaces"],
                ),
            ),
            (
                foreign_host,
                (
                    "host",
                    "Accepted",
                    "NoMatchingListenerHostname",
                    &["shop.example.org", "*.example.com"],
                ),
            ),
            (
                route(
                    "TCPRoute",
                    "kind",
                    "edge",
                    "open",
                    json!([{"backendRefs": [to("v1", 1)]}]),
                ),
                (
                    "kind",
                    "Accepted",
                    "NotAllowedByListeners",
                    &["open", "HTTPRoute", "TCPRoute"],
                ),
            ),
            (
                http("backend", to("v7", 1)),
                (
                    "backend",
                    "ResolvedRefs",
                    "BackendNotFound",
                    &["there is no Service", "reviews-v7"],
                ),
            ),
            (
                http("backend-port", json!({"name": "reviews-v1", "port": 81})),
                (
                    "backend-port",
                    "ResolvedRefs",
                    "BackendNotFound",
                    &["no port 81", "it has 80"],
                ),
            ),
            (
                http("not-granted", elsewhere),
                (
                    "not-granted",
                    "ResolvedRefs",
                    "RefNotPermitted",
                    &["ReferenceGrant", "kube-system", "kube-dns"],
                ),
            ),
            (
                http("idle", to("v2", 1)),
                (
                    "idle",
                    "ResolvedRefs",
                    "ResolvedRefs",
                    &["reviews-v2", "endpoint"],
                ),
            ),
            (
                route("HTTPRoute", "regex", "edge", "open", regex),
                (
                    "regex",
                    "Accepted",
                    "UnsupportedValue",
                    &["rules[0]", "/a("],
                ),
            ),
        ]
    }

    pub(super) async fn routes_that_cannot_work(bed: &Bed) -> anyhow::Result<()> {
        for version in ["v1", "v2"] {
            let selector = json!({"app": "reviews", "version": version});
            bed.apply(objects::service(&format!("reviews-{version}"), selector))
                .await?;
        }
        let other = json!({"from": "Selector", "selector": {"matchLabels": {"team": "other"}}});
        let listeners = json!([
            with(
                listener("open", "HTTP", 80),
                "hostname",
                json!("*.example.com")
            ),
            with(
                listener("closed", "HTTP", 8081),
                "allowedRoutes",
                json!({"namespaces": other})
            ),
        ]);
        bed.apply(gateway("edge", listeners)).await?;
        for (route, row) in bad_routes() {
            let kind = route["kind"].as_str().unwrap_or_default().to_owned();
            bed.apply(route).await?;
            eventually(row.0, async || {
                let route = bed.get(objects::GATEWAY, &kind, row.0).await?;
                check(&objects::conditions_by(&route, CONTROLLER_NAME)?, row)
            })
            .await?;
        }
        Ok(())
    }

    pub(super) async fn an_address_that_cannot_be_had(bed: &Bed) -> anyhow::Result<()> {
        let mut wishes = gateway("wishes", json!([listener("http", "HTTP", 80)]));
        wishes["spec"]["addresses"] = json!([{"type": "IPAddress", "value": "192.0.2.1"}]);
        bed.apply(wishes.clone()).await?;
        let is = async |condition: &str, reason: &str, words: &[&str]| {
            eventually(reason, async || {
                let gateway = bed.get(objects::GATEWAY, "Gateway", "wishes").await?;
                check(
                    &top_conditions(&gateway)?,
                    ("wishes", condition, reason, words),
                )
            })
            .await
            .context("the address")
        };
        is(
            "Programmed",
            "AddressNotUsable",
            &["192.0.2.1", "ask for addresses"],
        )
        .await?;
        wishes["spec"]["addresses"] = json!([{"type": "example.com/named", "value": "one"}]);
        bed.apply(wishes).await?;
        is(
            "Accepted",
            "UnsupportedAddress",
            &["example.com/named", "IPAddress, Hostname"],
        )
        .await
    }
}

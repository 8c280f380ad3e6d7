//! At a gateway: its listeners and routes, each before the policies on who may call.

use super::*;
use crate::support::gateway::{GatewayPod, at, free_port, host, listener, port};
use AuthorizationAction::Allow;
use weft_ir::{Protocol, RouteSection, Serving};
use weft_testkit::upstream::{Speaks, Upstream};

/// A gateway with the listener `web` in front of an application.
struct Shop {
    gateway: GatewayPod,
    _app: Upstream,
    number: u16,
}

impl Shop {
    async fn start() -> Self {
        let shop = Self {
            gateway: GatewayPod::start(),
            _app: Upstream::start("v1", Speaks::Http1).await.unwrap(),
            number: free_port(),
        };
        let web = listener("web", "web.example", vec![host("", rules())]);
        shop.gateway.tell(vec![
            endpoints("v1", Protocol::Detect, &[unmeshed(shop._app.address())]),
            port(shop.number, Serving::Http(vec![web])),
        ]);
        shop
    }

    fn enforce(&self, listener: Vec<AuthorizationPolicy>, route: Vec<AuthorizationPolicy>) {
        let section = RouteSection {
            route: rules()[0].route.clone(),
            rule: None,
        };
        self.gateway
            .tell(vec![encode::authorizations(&Authorizations {
                workload: Authorization::default(),
                listeners: vec![((self.number, "web".to_owned()), of(listener))],
                routes: vec![(section, of(route))],
            })]);
    }

    async fn ask(&self, authorization: &str) -> TestResponse {
        let mut client = Client::connect(at(self.number), Version::Http1).await;
        let request = get("/", authorization).header("x-user", "root");
        client.send(request.header("host", "web.example"), "").await
    }
}

fn rules() -> Vec<weft_ir::Rule> {
    vec![rule(0, vec![to("v1", 1)])]
}

#[tokio::test]
async fn listener_and_route_both_verify() {
    let shop = Shop::start().await;
    let good = bearer(&SIGNER, &claims("admin", 0));
    let user = bearer(&SIGNER, &claims("user", 0));
    let required = || tokens(provider(&[&SIGNER]), true);
    // Of another issuer.
    let other = || {
        tokens(
            JwtProvider {
                issuer: "https://other.example".to_owned(),
                ..provider(&[&SIGNER])
            },
            true,
        )
    };
    let removing = || {
        tokens(
            JwtProvider {
                forward: false,
                ..provider(&[&SIGNER])
            },
            true,
        )
    };
    let admins = || by_role(Allow, "admin", true);
    for (listener, route, codes) in [
        (vec![required()], vec![], [200, 200, 401]),
        (vec![], vec![required()], [200, 200, 401]),
        (vec![required()], vec![required()], [200, 200, 401]),
        (vec![required()], vec![other()], [401, 401, 401]),
        (vec![required(), admins()], vec![], [200, 403, 401]),
        // Claims that the listener verified are sources of the route's policies.
        (vec![required()], vec![admins()], [200, 403, 401]),
        // The listener's policy removes the token only after the route has verified it.
        (
            vec![removing()],
            vec![required(), admins()],
            [200, 403, 401],
        ),
        (vec![admins()], vec![required()], [403, 403, 403]),
    ] {
        shop.enforce(listener.clone(), route.clone());
        for (authorization, code) in [&*good, &*user, ""].into_iter().zip(codes) {
            let seen = shop.ask(authorization).await;
            assert_eq!(seen.status, code, "{listener:?} {route:?} {authorization}");
            if code == 200 {
                assert_eq!(seen.header("x-saw-x-user"), "jane");
            } else {
                // Clients outside the mesh are told nothing of the policy.
                assert_eq!((seen.header("weft-error"), &*seen.body), ("", &b""[..]));
            }
            assert_eq!(seen.headers.contains_key("www-authenticate"), code == 401);
        }
    }
    shop.enforce(vec![removing()], vec![]);
    let seen = shop.ask(&good).await;
    assert_eq!(seen.status, 200);
    assert!(!seen.headers.contains_key("x-saw-authorization"));
}

/// Routes see what the listener's policy made of the claims, never what the client sent.
#[tokio::test]
async fn routes_match_on_verified_claims() {
    let shop = Shop::start().await;
    let mut admin = rule(0, vec![to("v1", 1)]);
    admin.matches = vec![weft_ir::RequestMatch {
        headers: vec![weft_ir::HeaderMatch {
            name: "x-user".parse().unwrap(),
            value: weft_ir::ValueMatch::Exact("jane".to_owned()),
        }],
        ..weft_ir::RequestMatch::default()
    }];
    let web = listener("web", "web.example", vec![host("", vec![admin])]);
    shop.gateway
        .tell(vec![port(shop.number, Serving::Http(vec![web]))]);
    shop.enforce(vec![tokens(provider(&[&SIGNER]), false)], vec![]);
    let good = bearer(&SIGNER, &claims("admin", 0));
    assert_eq!(shop.ask(&good).await.status, 200);
    assert_eq!(shop.ask("").await.status, 404);
}

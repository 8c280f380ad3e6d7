//! Policies of authorization decide once the servers have, on the path that the client asked for.

use http::Request;
use weft_api::encode;
use weft_ir::{
    Authorization, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Authorizations,
    DefaultAuthorization, HeaderMatch, PathEdit, PathMatch, PolicyEffect, PolicyId, PolicyKind,
    Redirect, RequestMatch, Rewrite, RouteSection, ValueMatch,
};

use super::*;

fn of(action: AuthorizationAction, requests: RequestMatch) -> Authorization {
    let rule = AuthorizationRule {
        requests: vec![requests],
        ..AuthorizationRule::default()
    };
    let policy = AuthorizationPolicy {
        id: PolicyId {
            kind: PolicyKind::Authorization,
            namespace: Some("shop".into()),
            name: "policy".into(),
        },
        ports: Vec::new(),
        effect: PolicyEffect::Rules(action, vec![rule]),
    };
    Authorization {
        policies: vec![Arc::new(policy)],
        default: DefaultAuthorization::Allow,
    }
}

fn enforce(scene: &Scene, at: At, of: Authorization) {
    let Running::Gateway(gateway, number) = &scene.proxy else {
        panic!("no gateway")
    };
    let section = RouteSection {
        route: rule(0, vec![]).route,
        rule: None,
    };
    let mut all = Authorizations::default();
    match at {
        At::Listener => all.listeners.push(((*number, "web".to_owned()), of)),
        _ => all.routes.push((section, of)),
    }
    gateway.tell(vec![encode::authorizations(&all)]);
}

#[tokio::test]
async fn policies_decide_on_headers_of_the_server() {
    for at in [At::Rule, At::Listener] {
        let server = Server::start(Version::Http1, |asked| match asked.header("cookie") {
            "" => answer(200, &[], ""),
            user => answer(200, &[("x-user", user)], ""),
        })
        .await;
        let filter = http_auth(&["cookie"], &["x-user"]);
        let scene = Scene::new(at, Version::Http1, filter, Some(server.address)).await;
        let user = HeaderMatch {
            name: http::HeaderName::from_static("x-user"),
            value: ValueMatch::Exact("ana".into()),
        };
        let requests = RequestMatch {
            headers: vec![user],
            ..RequestMatch::default()
        };
        enforce(&scene, at, of(AuthorizationAction::Allow, requests));
        let mut client = scene.client().await;
        for (cookie, status) in [("ana", 200), ("bea", 403), ("", 403)] {
            let ask = Request::get("/").header("x-user", "ana");
            let seen = client.send(ask.header("cookie", cookie), "").await;
            assert_eq!(seen.status, status, "{at:?} {cookie}");
        }
        assert_eq!((scene.app.requests(), scene.checks("allowed")), (1, 3));
    }
}

#[tokio::test]
async fn filters_before_the_check_do_not_lead_around_policies() {
    let redirect = Filter::Redirect(Redirect {
        scheme: Some("https".into()),
        host: None,
        port: None,
        path: None,
        code: http::StatusCode::FOUND,
    });
    let rewrite = Filter::Rewrite(Rewrite {
        host: None,
        path: Some(PathEdit::Full("/public".into())),
    });
    for filter in [redirect, rewrite] {
        let server = Server::start(Version::Http1, |_| answer(200, &[], "")).await;
        let change = |rule: &mut Rule| rule.filters.insert(0, filter);
        let place = (At::Rule, Version::Http1);
        let auth = http_auth(&[], &["x-user"]);
        let scene = Scene::with(place, auth, Some(server.address), change, vec![]).await;
        let private = RequestMatch {
            path: Some(PathMatch::Prefix("/private".into())),
            ..RequestMatch::default()
        };
        enforce(&scene, At::Rule, of(AuthorizationAction::Deny, private));
        let mut client = scene.client().await;
        assert_eq!(client.get("/private").await.status, 403);
        assert_ne!(client.get("/other").await.status, 403);
    }
}

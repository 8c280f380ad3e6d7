//! Servers that speak Envoy's protocol, and clients that speak gRPC.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use prost::Message;
use weft_api::ext_authz::check_response::HttpResponse;
use weft_api::ext_authz::header_value_option::HeaderAppendAction;
use weft_api::ext_authz::{
    BoolValue, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue as Value,
    HeaderValueOption, HttpStatus, OkHttpResponse, QueryParameter, Status,
};

use super::*;

fn filter(requests: &[&'static str], body_limit: u32) -> ExternalAuth {
    ExternalAuth {
        server: Ok(port("auth")),
        protocol: ExternalAuthProtocol::Grpc {
            request_headers: HeaderSelection::of(names(requests)),
        },
        body_limit,
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap());
    bytes.put_slice(message);
    bytes.freeze()
}

fn replied(body: Bytes, status: &'static str) -> Answer {
    let status = HeaderValue::from_static(status);
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), status)]);
    let body = Full::new(body).with_trailers(async move { Some(Ok(trailers)) });
    let answer = http::Response::builder().header("content-type", "application/grpc");
    answer.body(body.boxed_unsync()).unwrap()
}

fn reply(response: &CheckResponse) -> Answer {
    replied(framed(&response.encode_to_vec()), "0")
}

fn status(code: i32) -> Option<Status> {
    Some(Status {
        code,
        message: String::new(),
    })
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(Value {
            key: key.into(),
            value: value.into(),
            raw_value: Bytes::new(),
        }),
        append: None,
        append_action: 0,
    }
}

fn denied(code: i32) -> CheckResponse {
    CheckResponse {
        status: status(7),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code }),
            headers: vec![
                option("set-cookie", "a=1"),
                option("set-cookie", "b=2"),
                option("content-length", "9"),
                option("x-why", "no"),
            ],
            body: "go away".into(),
        })),
    }
}

fn asked_of(asked: &Asked) -> CheckRequest {
    assert_eq!(
        asked.head.uri.path(),
        "/envoy.service.auth.v3.Authorization/Check"
    );
    assert_eq!(asked.header("te"), "trailers");
    CheckRequest::decode(asked.body.slice(5..)).unwrap()
}

#[tokio::test]
async fn allowed_request_is_changed_as_the_server_says() {
    let ok = OkHttpResponse {
        headers: vec![
            option("x-user", "ana"),
            HeaderValueOption {
                append: Some(BoolValue { value: true }),
                ..option("x-both", "server")
            },
            HeaderValueOption {
                append_action: HeaderAppendAction::AddIfAbsent.into(),
                ..option("x-absent", "server")
            },
            option("host", "evil"),
            option(":path", "/evil"),
            option("x-forwarded-for", "9.9.9.9"),
            option("weft-refused", "1"),
        ],
        headers_to_remove: vec!["authorization".into(), "Host".into()],
        response_headers_to_add: vec![option("x-granted", "1")],
        query_parameters_to_set: vec![QueryParameter {
            key: "q".into(),
            value: "2".into(),
        }],
        query_parameters_to_remove: vec!["token".into()],
    };
    let response = CheckResponse {
        status: status(0),
        http_response: Some(HttpResponse::OkResponse(ok)),
    };
    for (at, version) in ALL.into_iter().flat_map(|at| BOTH.map(|of| (at, of))) {
        let response = response.clone();
        let mut server = Server::start(Version::Http2, move |_| reply(&response)).await;
        let scene = Scene::new(at, version, filter(&[], 100), Some(server.address)).await;
        let mut client = scene.client().await;
        let ask = Request::post("/a?q=1&token=secret")
            .header("host", "shop.example.com")
            .header("authorization", "Bearer 1")
            .header("x-user", "forged")
            .header("x-both", "client")
            .header("x-absent", "client");
        let seen = client.send(ask, "body").await;
        assert_eq!(seen.status, 200, "{at:?} {version:?} {seen:?}");
        assert_eq!(seen.header("x-saw-x-user"), "ana");
        assert_eq!(seen.header("x-saw-x-absent"), "client");
        assert_eq!(seen.header("x-saw-authorization"), "");
        assert_eq!(host_of(&seen), "shop.example.com");
        assert_eq!(seen.header("x-path"), "/a?q=2");
        assert_eq!(seen.header("x-granted"), "1");
        assert_ne!(seen.header("x-saw-x-forwarded-for"), "9.9.9.9");
        assert_eq!(seen.body, "body");
        let attributes = asked_of(&server.last()).attributes.unwrap();
        let request = attributes.request.unwrap();
        assert!(request.time.unwrap().seconds > 0);
        let http = request.http.unwrap();
        assert_eq!((&*http.method, &*http.host), ("POST", "shop.example.com"));
        assert_eq!(
            (&*http.path, &*http.scheme),
            ("/a?q=1&token=secret", "http")
        );
        assert_eq!((&*http.body, http.size), ("body", 4));
        assert_eq!(http.raw_body, "body");
        assert_eq!(http.headers["authorization"], "Bearer 1");
        let source = attributes.source.unwrap();
        let address = source.address.unwrap().socket_address.unwrap();
        assert!(address.address.contains("127.0.0.1"), "{address:?}");
        let principal = match at {
            At::Sidecar => "spiffe://cluster.local/ns/shop/sa/frontend",
            At::Rule | At::Listener => "",
        };
        assert_eq!(source.principal, principal);
    }
}

#[tokio::test]
async fn only_the_listed_headers_are_sent() {
    let allow = CheckResponse {
        status: status(0),
        http_response: None,
    };
    let mut server = Server::start(Version::Http2, move |_| reply(&allow)).await;
    let filter = filter(&["cookie"], 0);
    let scene = Scene::new(At::Rule, Version::Http1, filter, Some(server.address)).await;
    let ask = Request::post("/")
        .header("cookie", "a=1")
        .header("x-secret", "1");
    let seen = scene.client().await.send(ask, "body").await;
    assert_eq!(seen.status, 200);
    let attributes = asked_of(&server.last()).attributes.unwrap();
    let http = attributes.request.unwrap().http.unwrap();
    assert_eq!(http.headers.len(), 1);
    assert_eq!((&*http.headers["cookie"], &*http.body), ("a=1", ""));
}

#[tokio::test]
async fn denial_has_status_headers_and_body_of_the_server() {
    for (at, version) in ALL.into_iter().flat_map(|at| BOTH.map(|of| (at, of))) {
        let server = Server::start(Version::Http2, |_| reply(&denied(401))).await;
        let scene = Scene::new(at, version, filter(&[], 0), Some(server.address)).await;
        let seen = scene.client().await.get("/").await;
        assert_eq!(seen.status, 401, "{at:?} {version:?}");
        let cookies: Vec<_> = seen.headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["a=1", "b=2"]);
        assert_eq!(
            (seen.header("x-why"), &seen.body[..]),
            ("no", &b"go away"[..])
        );
        assert_eq!((scene.app.requests(), scene.checks("denied")), (0, 1));
    }
}

#[tokio::test]
async fn what_is_no_decision_denies() {
    let contradiction = CheckResponse {
        status: status(0),
        ..denied(401)
    };
    let contradiction = contradiction.encode_to_vec();
    let ok = CheckResponse {
        status: status(0),
        http_response: None,
    };
    let ok = framed(&ok.encode_to_vec());
    let cases: Vec<(&str, Bytes, &'static str)> = vec![
        ("nothing", Bytes::new(), "0"),
        ("an empty message", framed(b""), "0"),
        ("a status of gRPC", ok.clone(), "14"),
        ("two messages", [&ok[..], &ok[..]].concat().into(), "0"),
        ("half a message", ok.slice(..6), "0"),
        (
            "a compressed message",
            [&[1], &ok[1..]].concat().into(),
            "0",
        ),
        ("garbage", framed(b"\xff\xff\xff"), "0"),
        ("a contradiction", framed(&contradiction), "0"),
        ("too much", framed(&vec![0x22; 100_000]), "0"),
    ];
    for (case, body, status) in cases {
        let server = Server::start(Version::Http2, move |_| replied(body.clone(), status)).await;
        let scene = Scene::new(
            At::Sidecar,
            Version::Http1,
            filter(&[], 0),
            Some(server.address),
        )
        .await;
        let seen = scene.client().await.get("/").await;
        assert_eq!((seen.status, scene.app.requests()), (403, 0), "{case}");
        assert_eq!(
            seen.header("weft-error-type"),
            "external_auth_failed",
            "{case}"
        );
    }
}

#[tokio::test]
async fn denied_grpc_client_gets_a_status_of_grpc() {
    for (code, grpc_status) in [(401, "16"), (403, "7"), (302, "7"), (503, "14")] {
        for protocol in [Version::Http1, Version::Http2] {
            let server = Server::start(protocol, move |_| match protocol {
                Version::Http1 => answer(u16::try_from(code).unwrap(), &[], "no"),
                Version::Http2 => reply(&denied(code)),
            })
            .await;
            let filter = match protocol {
                Version::Http1 => http_auth(&[], &[]),
                Version::Http2 => filter(&[], 0),
            };
            let scene = Scene::new(At::Rule, Version::Http2, filter, Some(server.address)).await;
            let ask = Request::post("/a.B/C").header("content-type", "application/grpc");
            let seen = scene.client().await.send(ask, framed(b"")).await;
            assert_eq!(seen.status, 200);
            assert_eq!(seen.header("grpc-status"), grpc_status, "{code}");
            assert_eq!(seen.header("content-type"), "application/grpc");
        }
    }
    let scene = Scene::new(At::Rule, Version::Http2, filter(&[], 0), None).await;
    let ask = Request::post("/a.B/C").header("content-type", "application/grpc");
    let seen = scene.client().await.send(ask, framed(b"")).await;
    assert_eq!(seen.header("grpc-status"), "14");
}

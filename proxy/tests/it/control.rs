//! The control plane client of a proxy against a fake controller that speaks the real protocol:
//! identity, configuration, admin.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::control_support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_accept::Protected;
use weft_api::proto;
use weft_api::proto::resource::Body;
use weft_ir::{Destination, Target};
use weft_proxy::admin::{self, Page, Readiness};
use weft_proxy::control::store::Lookup;
use weft_proxy::control::withdrawal::DrainLimits;
use weft_proxy::drain::Shutdown;
use weft_proxy::probe::TcpProbes;
use weft_proxy::routing::destination::Resolved;
use weft_proxy::run::Control;
use weft_testkit::controller::Event;
use weft_testkit::pki::Pki;

const LIMITS: DrainLimits = DrainLimits {
    bound: Duration::from_secs(8),
    grace: Duration::from_millis(50),
};

#[tokio::test]
async fn proxy_obtains_certificate_workload_and_destinations() {
    let setup = Setup::new("first").await;
    let proxy = setup.proxy();
    configured(&proxy).await;
    let held = live(&proxy, SERVICE).await;
    assert_eq!(behind(&held), ["10.1.0.1:80".parse().unwrap()]);
    let unknown = live(&proxy, "192.0.2.1:443").await;
    assert!(matches!(**unknown.load(), Resolved::Unknown));

    setup.controller.set([endpoints("v1", &["10.1.0.2:80"])]);
    until("new endpoints", || {
        behind(&held) == ["10.1.0.2:80".parse().unwrap()]
    })
    .await;
    let is_hello = |event: &Event| matches!(event, Event::Hello { .. });
    let hello = setup.controller.wait_for(0, is_hello).await.unwrap();
    let Event::Hello { peer, hello } = hello else {
        panic!()
    };
    assert_eq!((peer, hello.pod.as_str()), (identity(), "front-0"));
    let metrics = proxy.context.metrics.encode().unwrap();
    assert!(metrics.contains("weft_config_connected 1"), "{metrics}");
    assert!(metrics.contains("weft_config_destinations 2"), "{metrics}");
}

#[tokio::test]
async fn invalid_resource_is_refused_by_key_and_rest_takes_effect() {
    let setup = Setup::new("refused").await;
    let proxy = setup.proxy();
    configured(&proxy).await;
    let held = live(&proxy, SERVICE).await;
    let mut bad = service("v1");
    bad.version += 1;
    if let Some(Body::Destination(proto::Destination {
        target: Some(proto::destination::Target::Service(service)),
    })) = &mut bad.body
    {
        service.id = None;
    }
    setup
        .controller
        .set([bad, endpoints("v1", &["10.1.0.9:80"])]);
    let refusal = |event: &Event| matches!(event, Event::Ack(ack) if !ack.refused.is_empty());
    let ack = setup.controller.wait_for(0, refusal).await.unwrap();
    let Event::Ack(ack) = ack else { panic!() };
    assert_eq!(ack.refused.len(), 1);
    assert_eq!(ack.refused[0].key, format!("destination/{SERVICE}"));
    assert!(ack.refused[0].reason.contains("id"), "{ack:?}");
    assert_eq!(behind(&held), ["10.1.0.9:80".parse().unwrap()]);
}

#[tokio::test]
async fn oversized_resource_is_refused_by_key() {
    let setup = Setup::new("large").await;
    let proxy = setup.proxy();
    configured(&proxy).await;
    let held = live(&proxy, SERVICE).await;
    let mut large = endpoints("v1", &["10.1.0.2:80"]);
    let Some(Body::Endpoints(set)) = &mut large.body else {
        panic!("no endpoints")
    };
    set.endpoints[0].address = "1".repeat(17 << 20);
    setup.controller.set([large]);
    let refused = |event: &Event| matches!(event, Event::Ack(ack) if !ack.refused.is_empty());
    let refused = setup.controller.wait_for(0, refused).await.unwrap();
    let Event::Ack(proto::Ack { refused, .. }) = refused else {
        panic!()
    };
    assert_eq!(refused[0].key, "endpoints/shop/v1:80");
    assert!(refused[0].reason.contains("at most 16777216 are taken"));
    assert_eq!(behind(&held), ["10.1.0.1:80".parse().unwrap()]);
    setup.controller.set([endpoints("v1", &["10.1.0.3:80"])]);
    until("smaller endpoints", || {
        behind(&held) == ["10.1.0.3:80".parse().unwrap()]
    })
    .await;
    // The stream was not reopened.
    let hellos = setup.controller.events().into_iter();
    let hellos = hellos.filter(|event| matches!(event, Event::Hello { .. }));
    assert_eq!(hellos.count(), 1);
}

#[tokio::test]
async fn restarted_controller_gets_held_versions_and_sends_difference() {
    let mut setup = Setup::new("restart").await;
    let proxy = setup.proxy();
    configured(&proxy).await;
    live(&proxy, SERVICE).await;
    setup.controller.stop();
    let store = &proxy.context.store;
    until("the stream is lost", || !store.connected()).await;
    let held = live(&proxy, SERVICE).await;
    assert_eq!(behind(&held), ["10.1.0.1:80".parse().unwrap()]);
    // The configuration changes while the controller is down.
    setup.controller.set([endpoints("v1", &["10.1.0.3:80"])]);
    let before = setup.controller.events().len();
    setup.controller.restart().await.unwrap();
    let is_hello = |event: &Event| matches!(event, Event::Hello { .. });
    let hello = setup.controller.wait_for(before, is_hello).await.unwrap();
    let Event::Hello { hello, .. } = hello else {
        panic!()
    };
    let mut keys: Vec<_> = hello.held.iter().map(|h| h.key.as_str()).collect();
    keys.sort_unstable();
    let expected = [
        "destination/10.0.0.1:80",
        "endpoints/shop/v1:80",
        "workload",
    ];
    assert_eq!(keys, expected);
    let watch = Event::Watch(SERVICE.to_owned());
    setup
        .controller
        .wait_for(before, |e| *e == watch)
        .await
        .unwrap();
    until("the changed endpoints", || {
        behind(&held) == ["10.1.0.3:80".parse().unwrap()]
    })
    .await;
    // Only the difference was sent: a destination sent again would have caused a second
    // acknowledgement. The acknowledgement follows shortly after the update takes effect.
    let acked = |event: &Event| matches!(event, Event::Ack(_));
    setup.controller.wait_for(before, acked).await.unwrap();
    let is_ack = |event: &&Event| acked(event);
    assert_eq!(
        setup.controller.events()[before..]
            .iter()
            .filter(is_ack)
            .count(),
        1
    );
}

#[tokio::test]
async fn hung_controller_is_detected_within_13_seconds() {
    let setup = Setup::new("hung").await;
    let proxy = setup.proxy();
    configured(&proxy).await;
    let store = proxy.context.store.clone();
    until("the stream is up", || store.connected()).await;
    setup.controller.hang();
    let begun = tokio::time::Instant::now();
    while store.connected() && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        begun.elapsed() < Duration::from_secs(13),
        "{:?}",
        begun.elapsed()
    );
    let unknown = store.lookup("10.0.0.2:80".parse().unwrap()).await;
    assert!(matches!(unknown, Lookup::Unreachable));
    setup.controller.resume();
    until("the stream is up again", || store.connected()).await;
}

#[tokio::test]
async fn invalid_token_yields_no_certificate_until_replaced() {
    let setup = Setup::new("token").await;
    setup.volume.write("token", "wrong");
    let proxy = setup.proxy();
    let metrics = proxy.context.metrics.clone();
    until("an attempt failed", || {
        metrics.certificate_failures.get() > 0
    })
    .await;
    assert!(!proxy.context.tls.has_certificate());
    // The kubelet replaces the file under the same name.
    setup.volume.write("token", "right\n");
    configured(&proxy).await;
}

#[tokio::test]
async fn controller_with_untrusted_root_gets_no_token() {
    let setup = Setup::new("root").await;
    let other = Pki::new().unwrap();
    setup.volume.write("ca.crt", &other.root_pem());
    let proxy = setup.proxy();
    let metrics = proxy.context.metrics.clone();
    until("an attempt failed", || {
        metrics.certificate_failures.get() > 0
    })
    .await;
    assert_eq!(setup.controller.events(), [], "the token was sent");
    setup.volume.write("ca.crt", &setup.pki.root_pem());
    configured(&proxy).await;
}

#[tokio::test]
async fn invalid_root_file_is_counted_as_failure() {
    let setup = Setup::new("garbage").await;
    for garbage in [
        "",
        "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n",
    ] {
        setup.volume.write("ca.crt", garbage);
        let proxy = setup.proxy();
        let metrics = proxy.context.metrics.clone();
        until("an attempt failed", || {
            metrics.certificate_failures.get() > 0
        })
        .await;
    }
}

#[tokio::test]
async fn certificate_is_renewed_before_expiry() {
    let setup = Setup::new("renewal").await;
    setup.controller.set_lifetime(Duration::from_secs(3));
    let proxy = setup.proxy();
    configured(&proxy).await;
    let first = proxy.context.metrics.certificate_expiry.get();
    assert!(first > 0);
    let metrics = proxy.context.metrics.clone();
    until("renewed twice", || metrics.certificate_renewals.get() >= 3).await;
    assert!(metrics.certificate_expiry.get() > first);
    assert!(proxy.context.store.connected());
}

#[tokio::test]
async fn expired_certificate_is_replaced_once_controller_signs() {
    let setup = Setup::new("expiry").await;
    setup.controller.set_lifetime(Duration::from_secs(2));
    let proxy = setup.proxy();
    configured(&proxy).await;
    setup.controller.refuse_sign(Some("out of order"));
    let metrics = proxy.context.metrics.clone();
    let ended = metrics.certificate_expiry.get();
    let now = weft_proxy::tls::credentials::unix_now;
    until("the certificate has ended", || now() > ended + 1).await;
    assert!(metrics.certificate_failures.get() > 0);
    // The metric keeps the expiry of the expired certificate, for alerts.
    assert_eq!(metrics.certificate_expiry.get(), ended);
    setup.controller.set_lifetime(Duration::from_secs(3_600));
    setup.controller.refuse_sign(None);
    let back = std::time::Instant::now();
    until("a new certificate", || {
        metrics.certificate_expiry.get() > ended
    })
    .await;
    let store = &proxy.context.store;
    until("the stream is up", || store.connected()).await;
    assert!(
        back.elapsed() < Duration::from_secs(10),
        "{:?}",
        back.elapsed()
    );
}

fn serve(proxy: &Control, listener: TcpListener, page: Page) {
    let metrics = proxy.context.metrics.clone();
    tokio::spawn(async move {
        admin::serve(listener, page, &metrics, &Protected::default()).await;
    });
}

async fn get(address: SocketAddr, request: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tcp.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn admin_serves_readiness_probes_and_metrics() {
    let setup = Setup::new("admin").await;
    setup.controller.refuse_sign(Some("not yet"));
    let proxy = setup.proxy();
    let shutdown = Shutdown::new();
    let app = admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let app_port = app.local_addr().unwrap().port();
    let own = ["127.0.0.1".parse().unwrap()];
    let readiness = Readiness {
        mode: weft_proxy::options::RunMode::Sidecar,
        tls: proxy.context.tls.clone(),
        store: proxy.context.store.clone(),
        shutdown: shutdown.clone(),
        listening: Arc::new(AtomicBool::new(false)),
        withdrawal: proxy.withdrawal.clone(),
        limits: LIMITS,
        probes: TcpProbes::new(&own, [app_port]),
    };
    let listening = readiness.listening.clone();
    let any = "127.0.0.1:0".parse().unwrap();
    let ready = admin::bind(any).await.unwrap();
    let metrics = admin::bind(any).await.unwrap();
    let (at, metrics_at) = (ready.local_addr().unwrap(), metrics.local_addr().unwrap());
    serve(&proxy, ready, Page::Ready(readiness));
    let page = Page::metrics(proxy.context.metrics.clone());
    serve(&proxy, metrics, page);

    let ask = "GET /ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = get(at, ask).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("listeners"),
        "{answer}"
    );
    listening.store(true, Ordering::Release);
    let answer = get(at, ask).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("certificate"),
        "{answer}"
    );
    setup.controller.refuse_sign(None);
    configured(&proxy).await;
    assert!(get(at, ask).await.starts_with("HTTP/1.1 200"));
    shutdown.drain(Duration::ZERO).await;
    let answer = get(at, ask).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("draining"),
        "{answer}"
    );

    // TCP probes report the application's port, whatever the state of the proxy, and no other port.
    let mut app = Some(app);
    for (port, listens, answers) in [
        (app_port, true, "HTTP/1.1 200"),
        (at.port(), true, "HTTP/1.1 404"),
        (app_port, false, "HTTP/1.1 503"),
    ] {
        if !listens {
            app = None;
        }
        let probe =
            format!("GET /probe/tcp/{port} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = get(at, &probe).await;
        assert!(answer.starts_with(answers), "{app:?} {port}: {answer}");
    }

    let other = "GET /etc/passwd HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(get(metrics_at, other).await.starts_with("HTTP/1.1 404"));
    let post =
        "POST /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    assert!(get(metrics_at, post).await.starts_with("HTTP/1.1 405"));
    let huge = format!(
        "GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n",
        "a".repeat(64 << 10)
    );
    let answer = get(metrics_at, &huge).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        get(metrics_at, "garbage\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400")
    );
    let scrape = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = get(metrics_at, scrape).await;
    for name in [
        "process_resident_memory_bytes",
        "weft_certificate_expiry_timestamp_seconds",
    ] {
        assert!(answer.contains(name), "{answer}");
    }
    // A request head that never ends is cut after a timeout.
    let begun = tokio::time::Instant::now();
    get(metrics_at, "GET /metrics HTTP/1.1\r\nhost:").await;
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn drain_hook_repeats_withdraw_request_on_new_stream() {
    let mut setup = Setup::new("drain").await;
    let proxy = setup.proxy();
    configured(&proxy).await;
    let readiness = Readiness {
        mode: weft_proxy::options::RunMode::Sidecar,
        tls: proxy.context.tls.clone(),
        store: proxy.context.store.clone(),
        shutdown: Shutdown::new(),
        listening: Arc::new(AtomicBool::new(true)),
        withdrawal: proxy.withdrawal.clone(),
        limits: LIMITS,
        probes: TcpProbes::new(&[], []),
    };
    let listener = admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let at = listener.local_addr().unwrap();
    serve(&proxy, listener, Page::Ready(readiness));
    let ask = "GET /drain HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    // A pod that is not being deleted is not withdrawn, whoever calls the hook.
    let controller = &setup.controller;
    controller.answer_withdraw(Some(proto::Withdrawn::default()));
    let answer = get(at, ask).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("not being deleted"),
        "{answer}"
    );

    controller.answer_withdraw(None);
    let asked = controller.events().len();
    let waiting = tokio::spawn(get(at, ask));
    let is_withdraw = |event: &Event| *event == Event::Withdraw;
    controller.wait_for(asked, is_withdraw).await.unwrap();
    controller.answer_withdraw(Some(proto::Withdrawn {
        terminating: true,
        service_ports: 2,
        unacknowledged: 0,
    }));
    setup.controller.stop();
    setup.controller.restart().await.unwrap();
    let answer = waiting.await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("withdrawn\n"),
        "{answer}"
    );
}

/// As in a pod with `dnsPolicy: Default`, whose resolver does not know the cluster's names.
#[tokio::test]
async fn unresolvable_controller_is_reached_by_address_file() {
    let setup = Setup::new("addresses").await;
    let url = setup.controller.url();
    let (_, port) = url.rsplit_once(':').unwrap();
    // The stale address of a Service that was recreated; nothing listens there.
    setup.volume.write("controller", "127.0.0.99\n");
    let proxy = setup.proxy_of(&format!("https://weft-controller.invalid:{port}"));
    let metrics = proxy.context.metrics.clone();
    until("a failure", || metrics.certificate_failures.get() > 0).await;
    setup.volume.write("controller", "fd00::99\n127.0.0.1\n");
    configured(&proxy).await;
}

#[tokio::test]
async fn stream_ended_by_controller_is_reopened_without_gap() {
    let setup = Setup::new("farewell").await;
    let proxy = setup.proxy();
    configured(&proxy).await;
    live(&proxy, SERVICE).await;
    let other = Destination {
        address: "10.0.0.2:80".parse().unwrap(),
        target: Target::Unknown,
    };
    setup.controller.set_destination(&other);
    // A stream that ends early would be retried with a backoff.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let skip = setup.controller.events().len();
    setup.controller.end_streams();
    let store = proxy.context.store.clone();
    let gaps = async {
        let mut gaps = 0;
        for _ in 0..300 {
            gaps += u32::from(!store.connected());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        gaps
    };
    // A lookup in between is answered on the next stream.
    let (gaps, _) = tokio::join!(gaps, live(&proxy, "10.0.0.2:80"));
    assert_eq!(gaps, 0);
    let hello = |event: &Event| matches!(event, Event::Hello { .. });
    setup.controller.wait_for(skip, hello).await.unwrap();
    assert_eq!(proxy.context.metrics.config.connects.get(), 2);
}

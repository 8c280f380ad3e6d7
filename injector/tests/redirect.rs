//! The redirect rules in real network namespaces: two of them joined by a veth, the rules in one,
//! and listeners in place of the proxy and the application. Needs root, `ip` and `nft`. Without
//! root the tests are skipped with a message, or fail with `WEFT_ROOT_TESTS=all`.
//!
//! Listeners and dialers are this test binary again (`role`), started in a namespace as a given
//! user.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod netns;

use std::net::SocketAddr;

use netns::{APP_UID, PROXY_UID, Pod};
use weft_testkit::root::rooted;

/// Started by the other tests as a process of its own; does nothing by itself.
#[test]
#[ignore = "a process that the other tests start"]
fn role() {
    netns::role();
}

#[test]
fn outgoing_connections_are_redirected_with_original_destination() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("out");
    pod.redirect(&[]);
    for (family, far) in [("v4", pod.far_v4(80)), ("v6", pod.far_v6(80))] {
        let outbound = pod.listen_as_proxy(15001);
        pod.dial(APP_UID, far);
        assert_eq!(outbound.next_destination(), far, "{family}");
    }
}

#[test]
fn connections_of_root_processes_are_redirected() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("root");
    pod.redirect(&[]);
    let outbound = pod.listen_as_proxy(15001);
    pod.dial(0, pod.far_v4(443));
    assert_eq!(outbound.next_destination(), pod.far_v4(443));
}

#[test]
fn connections_of_the_proxy_are_not_redirected() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("own");
    pod.redirect(&[]);
    for far in [pod.far_v4(80), pod.far_v6(80)] {
        let server = pod.listen_far(80);
        pod.dial(PROXY_UID, far);
        server.next_destination();
    }
}

#[test]
fn incoming_connections_are_redirected_with_original_destination() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("in");
    pod.redirect(&[]);
    for near in [pod.near_v4(8080), pod.near_v6(8080)] {
        let inbound = pod.listen_as_proxy(15006);
        pod.dial_from_far(near);
        assert_eq!(inbound.next_destination(), near);
    }
}

#[test]
fn metrics_and_readiness_ports_are_not_redirected() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("ready");
    pod.redirect(&[]);
    for port in [15020, 15021] {
        for near in [pod.near_v4(port), pod.near_v6(port)] {
            let server = pod.listen_as_proxy(port);
            pod.dial_from_far(near);
            server.next_destination();
        }
    }
}

#[test]
fn connections_to_the_pods_own_addresses_are_not_redirected() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("self");
    pod.redirect(&[]);
    let loopback: [SocketAddr; 2] = [
        ([127, 0, 0, 1], 8080).into(),
        (std::net::Ipv6Addr::LOCALHOST, 8080).into(),
    ];
    for near in [pod.near_v4(8080), pod.near_v6(8080)]
        .into_iter()
        .chain(loopback)
    {
        // The application connects to itself, and so does the proxy when it forwards a connection
        // to it.
        for uid in [APP_UID, PROXY_UID] {
            let app = pod.listen_as_app(8080);
            pod.dial(uid, near);
            app.next_destination();
        }
    }
}

#[test]
fn packets_for_other_addresses_do_not_reach_the_proxy() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("relay");
    pod.redirect(&[]);
    // A neighbour on the link sends packets for other addresses to this pod.
    pod.route_from_far("203.0.113.9/32", "10.77.0.2");
    pod.route_from_far("2001:db8::9/128", "fd77::2");
    pod.route_from_far("127.0.0.9/32", "10.77.0.2");
    let inbound = pod.listen_as_proxy(15006);
    let _app = pod.listen_as_app(8080);
    for other in ["203.0.113.9:8080", "[2001:db8::9]:8080", "127.0.0.9:8080"] {
        assert!(!pod.try_dial_from_far(other.parse().unwrap()), "{other}");
    }
    pod.dial_from_far(pod.near_v6(8080));
    assert_eq!(inbound.next_destination(), pod.near_v6(8080));
}

#[test]
fn redirect_ports_reject_direct_connections() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("loop");
    pod.redirect(&[]);
    for port in [15001, 15006] {
        let _listener = pod.listen_as_proxy(port);
        for near in [pod.near_v4(port), pod.near_v6(port)] {
            assert!(!pod.try_dial_from_far(near), "{near} from outside");
            assert!(!pod.try_dial(APP_UID, near), "{near} from the app");
        }
        assert!(
            !pod.try_dial(APP_UID, ([127, 0, 0, 1], port).into()),
            "loopback from the app"
        );
    }
    // The same ports on other hosts are ordinary destinations.
    let outbound = pod.listen_as_proxy(15001);
    pod.dial(APP_UID, pod.far_v4(15001));
    assert_eq!(outbound.next_destination(), pod.far_v4(15001));
}

#[test]
fn excluded_ports_are_not_redirected() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("excl");
    pod.redirect(&[
        "--exclude-outbound-ports=3306",
        "--exclude-inbound-ports=9000",
    ]);
    let database = pod.listen_far(3306);
    pod.dial(APP_UID, pod.far_v4(3306));
    database.next_destination();
    let app = pod.listen_as_app(9000);
    pod.dial_from_far(pod.near_v4(9000));
    app.next_destination();
}

#[test]
fn second_run_leaves_the_same_rules() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("twice");
    pod.redirect(&[]);
    let once = pod.rules();
    pod.redirect(&[]);
    assert_eq!(once, pod.rules());
    assert!(
        once.contains("redirect to :15001") && once.contains("redirect to :15006"),
        "{once}"
    );
}

#[test]
fn missing_capability_is_reported_and_changes_nothing() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("right");
    let (ended_well, message) = pod.redirect_as(APP_UID);
    assert!(!ended_well);
    assert!(message.contains("NET_ADMIN"), "{message}");
    assert_eq!(pod.rules(), "");
}

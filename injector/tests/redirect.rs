//! The redirect rules in real network namespaces: two of them joined by a veth, the rules in one,
//! and listeners in place of the proxy and the application. Needs root, `ip` and `nft`. Without
//! root the tests are skipped with a message, or fail with `WEFT_ROOT_TESTS=all`.
//!
//! Listeners and clients are this test binary again (`child`), started in a namespace as a given
//! user.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod netns;

use std::net::SocketAddr;

use netns::{APP_UID, PROXY_UID, Pod};
use weft_testkit::root::rooted;

/// Started by the other tests as a process of its own; does nothing by itself.
#[test]
#[ignore = "a process that the other tests start"]
fn child() {
    netns::run_child();
}

#[test]
fn outgoing_connections_are_redirected_with_original_destination() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("out");
    pod.redirect(&[]);
    for (family, remote) in [("v4", pod.remote_v4(80)), ("v6", pod.remote_v6(80))] {
        let outbound = pod.listen_as_proxy(15001);
        pod.connect(APP_UID, remote);
        assert_eq!(outbound.next_destination(), remote, "{family}");
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
    pod.connect(0, pod.remote_v4(443));
    assert_eq!(outbound.next_destination(), pod.remote_v4(443));
}

#[test]
fn connections_of_the_proxy_are_not_redirected() {
    if !rooted() {
        return;
    }
    let pod = Pod::new("own");
    pod.redirect(&[]);
    for remote in [pod.remote_v4(80), pod.remote_v6(80)] {
        let server = pod.listen_remote(80);
        pod.connect(PROXY_UID, remote);
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
    for address in [pod.pod_v4(8080), pod.pod_v6(8080)] {
        let inbound = pod.listen_as_proxy(15006);
        pod.connect_from_remote(address);
        assert_eq!(inbound.next_destination(), address);
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
        for address in [pod.pod_v4(port), pod.pod_v6(port)] {
            let server = pod.listen_as_proxy(port);
            pod.connect_from_remote(address);
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
    for address in [pod.pod_v4(8080), pod.pod_v6(8080)]
        .into_iter()
        .chain(loopback)
    {
        // The application connects to itself, and so does the proxy when it forwards a connection
        // to it.
        for uid in [APP_UID, PROXY_UID] {
            let app = pod.listen_as_app(8080);
            pod.connect(uid, address);
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
    pod.route_from_remote("203.0.113.9/32", "10.77.0.2");
    pod.route_from_remote("2001:db8::9/128", "fd77::2");
    pod.route_from_remote("127.0.0.9/32", "10.77.0.2");
    let inbound = pod.listen_as_proxy(15006);
    let _app = pod.listen_as_app(8080);
    for other in ["203.0.113.9:8080", "[2001:db8::9]:8080", "127.0.0.9:8080"] {
        assert!(
            !pod.try_connect_from_remote(other.parse().unwrap()),
            "{other}"
        );
    }
    pod.connect_from_remote(pod.pod_v6(8080));
    assert_eq!(inbound.next_destination(), pod.pod_v6(8080));
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
        for address in [pod.pod_v4(port), pod.pod_v6(port)] {
            assert!(
                !pod.try_connect_from_remote(address),
                "{address} from outside"
            );
            assert!(!pod.try_connect(APP_UID, address), "{address} from the app");
        }
        assert!(
            !pod.try_connect(APP_UID, ([127, 0, 0, 1], port).into()),
            "loopback from the app"
        );
    }
    // The same ports on other hosts are ordinary destinations.
    let outbound = pod.listen_as_proxy(15001);
    pod.connect(APP_UID, pod.remote_v4(15001));
    assert_eq!(outbound.next_destination(), pod.remote_v4(15001));
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
    let database = pod.listen_remote(3306);
    pod.connect(APP_UID, pod.remote_v4(3306));
    database.next_destination();
    let app = pod.listen_as_app(9000);
    pod.connect_from_remote(pod.pod_v4(9000));
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

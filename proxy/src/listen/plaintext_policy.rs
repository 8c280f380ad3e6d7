//! What an inbound listener accepts in plain text: everything, the kubelet's probes alone, or
//! nothing.

use std::net::{IpAddr, SocketAddr};

use http::Method;
use http::request::Parts;
use weft_ir::{Mode, Probe, ProbeRequest, Workload};

/// The method of gRPC's health checking protocol that the kubelet calls.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PlaintextPolicy {
    All,
    /// The probes of one port, over HTTP.
    Probes {
        probes: Vec<ProbeRequest>,
        /// Addresses of the node, where the kubelet is; empty if they are not known.
        node: Vec<IpAddr>,
    },
    Nothing,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is no probe.
    PlainText,
    /// It is a probe, and does not come from the node.
    Source,
}

impl PlaintextPolicy {
    /// Returns the policy of the application at `app`. An unknown pod accepts nothing.
    pub(super) fn of(workload: Option<&Workload>, app: SocketAddr) -> Self {
        let Some(workload) = workload else {
            return Self::Nothing;
        };
        if workload.mode_at(app.port()) == Mode::Permissive {
            return Self::All;
        }
        let probes = probes(Some(workload), app);
        if probes.is_empty() {
            return Self::Nothing;
        }
        let node = workload.host_ips.clone();
        Self::Probes { probes, node }
    }

    /// Errors if the request is refused. `upgrade`: it asks for an upgrade, which no probe does.
    /// `has_body`: it has a body, which only calls of gRPC have. `is_from`: whether it comes from
    /// the node with these addresses.
    pub(super) fn request(
        &self,
        head: &Parts,
        upgrade: bool,
        has_body: bool,
        is_from: impl FnOnce(&[IpAddr]) -> bool,
    ) -> Result<(), Refusal> {
        match self {
            Self::All => Ok(()),
            Self::Nothing => Err(Refusal::PlainText),
            Self::Probes { probes, .. } if !is_probe(probes, head, upgrade, has_body) => {
                Err(Refusal::PlainText)
            }
            Self::Probes { node, .. } if !is_from(node) => Err(Refusal::Source),
            Self::Probes { .. } => Ok(()),
        }
    }
}

/// Returns the probes of the application at `app`.
pub(super) fn probes(workload: Option<&Workload>, app: SocketAddr) -> Vec<ProbeRequest> {
    let of_port = |probe: &&Probe| probe.port == app.port();
    let all = workload.into_iter().flat_map(|workload| &workload.probes);
    let of_port = all.filter(of_port);
    of_port.map(|probe| probe.asks.clone()).collect()
}

/// Returns true if the request is one of the probes. `upgrade`: it asks for an upgrade, which no
/// probe does. `has_body`: it has a body, which only calls of gRPC have.
pub(super) fn is_probe(
    probes: &[ProbeRequest],
    head: &Parts,
    upgrade: bool,
    has_body: bool,
) -> bool {
    let is_asked = |probe| is_asked(probe, head, has_body);
    !upgrade && probes.iter().any(is_asked)
}

fn is_asked(probe: &ProbeRequest, head: &Parts, has_body: bool) -> bool {
    match probe {
        ProbeRequest::Get(path) => {
            let asked = head.uri.path_and_query();
            let is_path = asked.is_some_and(|asked| asked.as_str() == path);
            head.method == Method::GET && !has_body && is_path
        }
        ProbeRequest::GrpcHealth => head.method == Method::POST && head.uri.path() == HEALTH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_ir::{Identity, TrustDomain};

    fn workload(mode: Mode) -> Workload {
        let domain = TrustDomain::new("cluster.local").unwrap();
        let mut workload = Workload::new(Identity::new(domain, "shop", "a").unwrap(), mode);
        let probe = |port, asks| Probe { port, asks };
        workload.probes = vec![
            probe(8080, ProbeRequest::Get("/healthz?full=1".to_owned())),
            probe(8080, ProbeRequest::Get("/ready".to_owned())),
            probe(9090, ProbeRequest::GrpcHealth),
        ];
        workload
    }

    fn admits(workload: Option<&Workload>, port: u16, method: &str, uri: &str) -> bool {
        let request = http::Request::builder().method(method).uri(uri).body(());
        let (head, ()) = request.unwrap().into_parts();
        let plaintext_policy =
            PlaintextPolicy::of(workload, SocketAddr::from(([10, 0, 0, 1], port)));
        let has_body = method == "POST";
        let admitted = plaintext_policy.request(&head, false, has_body, |_| true);
        admitted.is_ok()
    }

    #[test]
    fn strict_pod_admits_only_declared_probes_in_plaintext() {
        let strict = workload(Mode::Strict);
        for (port, method, uri, admitted) in [
            (8080, "GET", "/healthz?full=1", true),
            (8080, "GET", "http://10.0.0.1:8080/ready", true),
            (8080, "GET", "/healthz", false),
            (8080, "GET", "/healthz?full=1&more", false),
            (8080, "GET", "/healthz/", false),
            (8080, "GET", "/%72eady", false),
            (8080, "GET", "/a/../ready", false),
            (8080, "GET", "/", false),
            (8080, "POST", "/ready", false),
            (8080, "HEAD", "/ready", false),
            (8081, "GET", "/ready", false),
            (9090, "POST", HEALTH, true),
            (9090, "POST", "/grpc.health.v1.Health/Watch", false),
            (9090, "GET", "/ready", false),
            (8080, "POST", HEALTH, false),
        ] {
            let found = admits(Some(&strict), port, method, uri);
            assert_eq!(found, admitted, "{method} {uri} on {port}");
        }
    }

    #[test]
    fn upgrade_request_is_not_admitted_as_probe() {
        let strict = workload(Mode::Strict);
        let plaintext_policy = PlaintextPolicy::of(Some(&strict), "10.0.0.1:8080".parse().unwrap());
        let (head, ()) = http::Request::get("/ready").body(()).unwrap().into_parts();
        let admits = |upgrade| plaintext_policy.request(&head, upgrade, false, |_| true);
        assert_eq!(admits(false), Ok(()));
        assert_eq!(admits(true), Err(Refusal::PlainText));
    }

    #[test]
    fn get_with_body_is_not_admitted_as_probe() {
        let strict = workload(Mode::Strict);
        let plaintext_policy = PlaintextPolicy::of(Some(&strict), "10.0.0.1:8080".parse().unwrap());
        let (head, ()) = http::Request::get("/ready").body(()).unwrap().into_parts();
        let refused = plaintext_policy.request(&head, false, true, |_| true);
        assert_eq!(refused, Err(Refusal::PlainText));
    }

    #[test]
    fn probe_is_admitted_from_its_source_only() {
        let mut strict = workload(Mode::Strict);
        strict.host_ips = vec!["192.0.2.7".parse().unwrap()];
        let app = "10.0.0.1:8080".parse().unwrap();
        let policy = PlaintextPolicy::of(Some(&strict), app);
        for (path, from_node, expected) in [
            ("/ready", true, Ok(())),
            ("/ready", false, Err(Refusal::Source)),
            ("/", true, Err(Refusal::PlainText)),
            ("/", false, Err(Refusal::PlainText)),
        ] {
            let (head, ()) = http::Request::get(path).body(()).unwrap().into_parts();
            let is_from = |node: &[IpAddr]| {
                assert_eq!(node, strict.host_ips);
                from_node
            };
            let found = policy.request(&head, false, false, is_from);
            assert_eq!(found, expected, "{path} {from_node}");
        }
        strict.mode = Mode::Permissive;
        let policy = PlaintextPolicy::of(Some(&strict), app);
        let (head, ()) = http::Request::get("/ready").body(()).unwrap().into_parts();
        assert_eq!(policy.request(&head, false, false, |_| false), Ok(()));
    }

    #[test]
    fn permissive_pod_admits_all_and_unknown_pod_admits_none() {
        let open = workload(Mode::Permissive);
        assert!(admits(Some(&open), 1, "POST", "/any"));
        assert!(!admits(None, 8080, "GET", "/ready"));
    }
}

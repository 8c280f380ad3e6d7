//! What an edit costs in a large cluster, step by step from the watch's event to the updates of
//! proxies and the statuses that are due: 10,000 Services, 20,000 pods, 1,000 HTTPRoutes, 1,000
//! proxies. A measurement, not a test:
//!
//! `cargo test --release -p weft-controller --lib scale -- --ignored --nocapture`

use std::sync::Arc;

use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use weft_translate::Translator;

use crate::encoder::Source;
use crate::snapshot::{Snapshot, test_settings};
use crate::status;
use crate::subscribe::Registry;
use crate::subscribe::input::{Hello, Input};
use crate::subscribe::registry::StreamHandle;
use crate::subscribe::session::Session;
use crate::watch::object::Watched;
use crate::watch::{ObjectKey, Store, Watchable, World};

const NAMESPACES: usize = 100;
const SERVICES: usize = 10_000;
const PODS_OF_A_SERVICE: usize = 2;
const ROUTES: usize = 1_000;
/// Of them; the Gateway's are attached to it besides.
const GATEWAY_ROUTES: usize = 100;
const PROXIES: usize = 1_000;
const EDITS: usize = 50;
/// In place of an edit: nothing is kept of what was.
const ANEW: &str = "everything anew";

fn meta(name: String, n: usize) -> Value {
    json!({
        "name": name, "namespace": format!("ns-{}", n % NAMESPACES), "uid": format!("{n:08x}-0000"),
        "generation": 1, "creationTimestamp": format!("2024-01-01T{:02}:{:02}:00Z", n / 60 % 24, n % 60),
        "labels": {"app": format!("app-{n}"), "app.kubernetes.io/part-of": "shop"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x".repeat(200)},
    })
}

fn service(n: usize) -> Value {
    let ip = format!("10.{}.{}.{}", 96 + n / 65_536, n / 256 % 256, n % 256);
    json!({
        "metadata": meta(format!("s-{n}"), n),
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    })
}

fn pod_ip(n: usize) -> String {
    format!("172.{}.{}.{}", 16 + n / 65_536, n / 256 % 256, n % 256)
}

fn pod(n: usize, phase: &str) -> Value {
    let container = |name: &str| {
        json!({"name": name, "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}}})
    };
    json!({
        "metadata": meta(format!("p-{n}"), n / PODS_OF_A_SERVICE),
        "spec": {
            "serviceAccountName": format!("app-{}", n / PODS_OF_A_SERVICE),
            "containers": [container("app")], "initContainers": [{"name": "weft-proxy"}],
        },
        "status": {"phase": phase, "podIP": pod_ip(n), "podIPs": [{"ip": pod_ip(n)}]},
    })
}

fn slice(n: usize, ready: bool) -> Value {
    let mut metadata = meta(format!("s-{n}-slice"), n);
    metadata["labels"]["kubernetes.io/service-name"] = format!("s-{n}").into();
    let endpoints = (0..PODS_OF_A_SERVICE).map(|place| {
        let pod = n * PODS_OF_A_SERVICE + place;
        json!({
            "addresses": [pod_ip(pod)],
            "conditions": {"ready": ready || place == 0, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": format!("ns-{}", n % NAMESPACES), "name": format!("p-{pod}")},
        })
    });
    json!({
        "metadata": metadata, "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}], "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn route(n: usize, edit: &str) -> Value {
    let mut parents =
        vec![json!({"group": "", "kind": "Service", "name": format!("s-{n}"), "port": 80})];
    if n < GATEWAY_ROUTES {
        parents.push(json!({"name": "public", "namespace": "edge"}));
    }
    let backends = json!([
        {"name": format!("s-{n}"), "port": 80, "weight": 90},
        {"name": format!("s-{}", n + ROUTES), "port": 80, "weight": 10},
    ]);
    let filter = json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-edit", "value": edit}]}});
    let rules = ["/a", "/b", "/"].map(|path| {
        json!({"matches": [{"path": {"type": "PathPrefix", "value": path}}], "filters": [filter], "backendRefs": backends})
    });
    let hostnames = [format!("app-{n}.example.com")];
    json!({
        "metadata": meta(format!("r-{n}"), n),
        "spec": {"parentRefs": parents, "hostnames": hostnames, "rules": rules},
    })
}

fn watched<T: Watchable>(object: Value) -> Watched<T> {
    serde_json::from_value(object).unwrap()
}

fn list<T: Watchable>(store: &Store<T>, objects: impl Iterator<Item = Value>) {
    store.apply(Event::Init);
    for object in objects {
        store.apply(Event::InitApply(watched(object)));
    }
    store.apply(Event::InitDone);
}

fn cluster() -> World {
    let world = World::default();
    list(&world.services, (0..SERVICES).map(service));
    list(
        &world.endpoint_slices,
        (0..SERVICES).map(|n| slice(n, true)),
    );
    let pods = (0..SERVICES * PODS_OF_A_SERVICE).map(|n| pod(n, "Running"));
    list(&world.pods, pods);
    let namespaces = (0..NAMESPACES).map(|n| json!({"metadata": {"name": format!("ns-{n}")}}));
    list(&world.namespaces, namespaces);
    list(&world.http_routes, (0..ROUTES).map(|n| route(n, "none")));
    let class = json!({"metadata": {"name": "weft"}, "spec": {"controllerName": crate::names::GATEWAY_CONTROLLER_NAME}});
    list(&world.gateway_classes, std::iter::once(class));
    let gateway = json!({
        "metadata": {"name": "public", "namespace": "edge", "uid": "gw"},
        "spec": {"gatewayClassName": "weft", "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}}},
        ]},
    });
    list(&world.gateways, std::iter::once(gateway));
    world
}

/// A proxy that answers at once.
struct Proxy {
    session: Session,
    registered: StreamHandle,
}

/// Each watches five Services with routes and five without.
fn proxies(registry: &Registry) -> Vec<Proxy> {
    let proxy = |n: usize| {
        let hello = Hello {
            namespace: format!("ns-{}", n % NAMESPACES),
            pod: format!("p-{}", n * PODS_OF_A_SERVICE),
            version: String::new(),
            held: Vec::new(),
            unknown: Vec::new(),
        };
        let pod = ObjectKey::new(&hello.namespace, &hello.pod);
        let mut session = Session::new(hello, 100).unwrap();
        for place in 0..5 {
            for service in [n + place, ROUTES + n * 5 + place] {
                let address = service_address(service % SERVICES);
                session.receive(Input::Watch(address)).unwrap();
            }
        }
        Proxy {
            session,
            registered: registry.register(pod, &[], 1),
        }
    };
    (0..PROXIES).map(proxy).collect()
}

fn service_address(n: usize) -> std::net::SocketAddr {
    let ip = service(n)["spec"]["clusterIP"].as_str().unwrap().to_owned();
    format!("{ip}:80").parse().unwrap()
}

/// Resources that all proxies are sent.
fn send(proxies: &mut [Proxy], source: &impl Source) -> usize {
    let mut sent = 0;
    for Proxy {
        session,
        registered,
    } in proxies
    {
        session.snapshot_changed();
        while let Some(update) = session.next_update(source) {
            sent += update.resources.len();
            let ack = Input::Ack {
                nonce: update.nonce,
                refused: Vec::new(),
            };
            let acked = session.receive(ack).unwrap();
            registered.record(acked.unwrap_or_default());
        }
    }
    sent
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

/// Milliseconds that this thread had a processor: what else runs on the machine does not count.
fn processor() -> f64 {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos: f64 = times.split_whitespace().next().unwrap().parse().unwrap();
    nanos / 1e6
}

/// Processor time of each step, over all edits.
#[derive(Default)]
struct Steps(Vec<(&'static str, Vec<f64>)>);

impl Steps {
    fn time<T>(&mut self, name: &'static str, step: impl FnOnce() -> T) -> T {
        let begin = processor();
        let done = step();
        self.add(name, processor() - begin);
        done
    }

    fn add(&mut self, name: &'static str, taken: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(taken),
            None => self.0.push((name, vec![taken])),
        }
    }

    /// The kernel counts by its ticks: one time alone says little.
    fn print(self, title: &str) {
        println!("{title}");
        for (name, times) in &self.0 {
            let mean = times.iter().sum::<f64>() / times.len() as f64;
            println!("  {name:<40} mean {mean:8.2} ms");
        }
    }
}

#[test]
#[ignore = "a measurement, of a release build"]
fn an_edit_in_a_large_cluster() {
    let world = cluster();
    let mut translator = Translator::new(test_settings());
    let registry = Registry::default();
    let mut proxies = proxies(&registry);
    let objects = resident();
    let begin = processor();
    let mut snapshot = Arc::new(Snapshot::new(translator.translate(&world.objects())));
    println!("first translation {:.1} ms", processor() - begin);
    println!(
        "first updates: {} resources",
        send(&mut proxies, &snapshot.encoder)
    );
    println!(
        "resident: {objects:.0} MiB of objects, {:.0} MiB with the mesh",
        resident()
    );

    type Edit<'a> = (&'static str, Box<dyn Fn(usize) + 'a>);
    let edits: [Edit<'_>; 6] = [
        (ANEW, Box::new(|_| ())),
        (
            "an HTTPRoute of a Service",
            Box::new(|n| {
                drop(
                    world
                        .http_routes
                        .apply(Event::Apply(watched(route(500, &n.to_string())))),
                );
            }),
        ),
        (
            "an HTTPRoute of a Service and a Gateway",
            Box::new(|n| {
                drop(
                    world
                        .http_routes
                        .apply(Event::Apply(watched(route(5, &n.to_string())))),
                );
            }),
        ),
        (
            "readiness of an endpoint",
            Box::new(|n| {
                drop(
                    world
                        .endpoint_slices
                        .apply(Event::Apply(watched(slice(5, n % 2 == 0)))),
                );
            }),
        ),
        (
            "a pod that ends or starts",
            Box::new(|n| {
                let phase = ["Succeeded", "Running"][n % 2];
                drop(world.pods.apply(Event::Apply(watched(pod(10, phase)))));
            }),
        ),
        (
            "a Service's port",
            Box::new(|n| {
                let mut object = service(7000);
                object["spec"]["ports"][0]["appProtocol"] = ["http", "tcp"][n % 2].into();
                drop(world.services.apply(Event::Apply(watched(object))));
            }),
        ),
    ];
    for (title, edit) in edits {
        let mut steps = Steps::default();
        for n in 0..EDITS {
            let begin = processor();
            steps.time("the watch's event", || edit(n));
            let objects = steps.time("objects of all stores", || world.objects());
            if title == ANEW {
                translator = Translator::new(test_settings());
            }
            let translation = steps.time("translation", || translator.translate(&objects));
            let next = steps.time("snapshot", || match title {
                ANEW => Snapshot::new(translation),
                _ => snapshot.next(translation),
            });
            let last = std::mem::replace(&mut snapshot, Arc::new(next));
            steps.time("updates of all proxies", || {
                send(&mut proxies, &snapshot.encoder)
            });
            steps.add("from the event to the last update", processor() - begin);
            steps.time("the last snapshot's end", || drop((last, objects)));
            steps.time("statuses", || status::due(&snapshot, &registry, &world));
        }
        steps.print(title);
        println!("  resident {:.0} MiB", resident());
    }
}

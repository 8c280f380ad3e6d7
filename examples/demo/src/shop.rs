//! The demo's steps: deploy the shop, apply its routes, send traffic, patch weights.

use std::collections::HashMap;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use crate::kubectl::Kubectl;

const CONTROLLER: &str = "weft.dev/mesh-controller";
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Shop<'a> {
    pub(crate) kubectl: &'a Kubectl,
}

/// The result of a run of `weft-shop load`.
pub(crate) struct Load {
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    versions: Vec<String>,
}

/// A running `weft-shop load`.
pub(crate) struct Running(Child);

impl<'a> Shop<'a> {
    pub(crate) fn new(kubectl: &'a Kubectl) -> Self {
        Self { kubectl }
    }

    pub(crate) fn weft_is_ready(&self) -> anyhow::Result<()> {
        for part in ["weft-controller", "weft-injector", "weft-provisioner"] {
            let deployment = format!("deployment/{part}");
            self.kubectl
                .show(&[
                    "-n",
                    "weft-system",
                    "rollout",
                    "status",
                    &deployment,
                    "--timeout=60s",
                ])
                .context("Weft is not ready in this cluster: `make install` installs it")?;
        }
        Ok(())
    }

    pub(crate) fn deploy(&self) -> anyhow::Result<()> {
        let files = ["namespace", "frontend", "catalogue", "reviews", "shopper"];
        let files = files.map(|name| format!("examples/shop/{name}.yaml"));
        for file in &files {
            self.kubectl.show(&["apply", "-f", file])?;
        }
        self.rollout()?;
        // Pods created before the label or before Weft have no proxy: only new pods get one.
        if !self.all_meshed()? {
            self.kubectl
                .show(&["-n", "shop", "rollout", "restart", "deployment"])?;
            self.rollout()?;
            anyhow::ensure!(
                self.all_meshed()?,
                "the pods of the shop start without weft-proxy: is weft-injector well?"
            );
        }
        self.kubectl
            .show(&["-n", "shop", "get", "pods", "-o", "wide"])
    }

    fn rollout(&self) -> anyhow::Result<()> {
        self.kubectl.show(&[
            "-n",
            "shop",
            "rollout",
            "status",
            "deployment",
            "--timeout=120s",
        ])
    }

    fn live_pods(&self) -> anyhow::Result<Vec<Value>> {
        let pods = self.kubectl.read_json(&["-n", "shop", "get", "pods"])?;
        let live = list(&pods["items"])
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(live.cloned().collect())
    }

    fn all_meshed(&self) -> anyhow::Result<bool> {
        let meshed = |pod: &Value| {
            let containers = list(&pod["spec"]["initContainers"])
                .iter()
                .chain(list(&pod["spec"]["containers"]));
            containers
                .into_iter()
                .any(|container| container["name"] == "weft-proxy")
        };
        Ok(self.live_pods()?.iter().all(meshed))
    }

    /// Returns what runs at each pod address: `reviews-v1`, `catalogue`.
    pub(crate) fn pods(&self) -> anyhow::Result<HashMap<String, String>> {
        let mut pods = HashMap::new();
        for pod in self.live_pods()? {
            let labels = &pod["metadata"]["labels"];
            let app = labels["app"].as_str().unwrap_or("?");
            let what = match labels["version"].as_str() {
                Some(version) => format!("{app}-{version}"),
                None => app.to_owned(),
            };
            for address in list(&pod["status"]["podIPs"]) {
                if let Some(ip) = address["ip"].as_str() {
                    pods.insert(ip.to_owned(), what.clone());
                }
            }
        }
        Ok(pods)
    }

    pub(crate) fn apply_routes(&self) -> anyhow::Result<()> {
        self.kubectl
            .show(&["apply", "-f", "examples/shop/routes.yaml"])?;
        self.wait_accepted()?;
        self.kubectl
            .show(&["-n", "shop", "get", "httproutes,grpcroutes"])
    }

    /// Waits until the controller has accepted the latest generation of every route.
    fn wait_accepted(&self) -> anyhow::Result<()> {
        self.wait("the routes to be accepted", || {
            let routes = self
                .kubectl
                .read_json(&["-n", "shop", "get", "httproutes,grpcroutes"])?;
            let waiting: Vec<_> = list(&routes["items"])
                .iter()
                .filter_map(why_not_accepted)
                .collect();
            Ok(if waiting.is_empty() {
                Ok(())
            } else {
                Err(waiting.join("; "))
            })
        })
    }

    /// Waits until requests of the shopper and of the catalogue follow the routes.
    pub(crate) fn wait_in_force(&self) -> anyhow::Result<()> {
        println!("Waiting until requests go where the routes say");
        let probes: [(&str, &[&str], &[&str]); 4] = [
            (
                "http://reviews/reviews/1",
                &["-H", "x-version: v3"],
                &["v3"],
            ),
            ("http://reviews/api/reviews/1", &[], &["v2"]),
            ("http://reviews:9000", &["--grpc", "watch"], &["v3"]),
            ("http://frontend/", &[], &["v1", "v2"]),
        ];
        for (url, arguments, expected) in probes {
            self.wait(url, || {
                let arguments =
                    load_arguments(url, &[arguments, &["--count", "6", "--fresh"]].concat());
                let output = self.kubectl.start_quietly(&strs(&arguments))?;
                let load = Running(output).finish()?;
                let right = load.failed == 0
                    && load
                        .versions
                        .iter()
                        .all(|version| expected.contains(&version.as_str()));
                Ok(if right {
                    Ok(())
                } else {
                    Err(format!(
                        "{url}: {} failed, answers from {}",
                        load.failed,
                        load.versions.join(", ")
                    ))
                })
            })?;
        }
        Ok(())
    }

    /// Calls the function until it returns Ok; prints every few seconds what it waits for.
    fn wait(
        &self,
        what: &str,
        mut ask: impl FnMut() -> anyhow::Result<Result<(), String>>,
    ) -> anyhow::Result<()> {
        let (start, mut reported) = (Instant::now(), Instant::now());
        loop {
            let Err(waiting) = ask()? else { return Ok(()) };
            anyhow::ensure!(
                start.elapsed() < PATIENCE,
                "waited {} s for {what}; last seen: {waiting}",
                PATIENCE.as_secs()
            );
            if reported.elapsed() > Duration::from_secs(5) {
                println!("  waiting for {what}: {waiting}");
                reported = Instant::now();
            }
            thread::sleep(Duration::from_millis(300));
        }
    }

    pub(crate) fn load(&self, url: &str, arguments: &[&str]) -> anyhow::Result<Load> {
        self.start_load(url, arguments)?.finish()
    }

    pub(crate) fn start_load(&self, url: &str, arguments: &[&str]) -> anyhow::Result<Running> {
        let arguments = load_arguments(url, arguments);
        Ok(Running(self.kubectl.start(&strs(&arguments))?))
    }

    /// Patches the weights of the first rule, and waits until the route is accepted.
    pub(crate) fn shift_weights(&self, v1: u32, v2: u32) -> anyhow::Result<()> {
        let weight = |place, weight| {
            format!(
                r#"{{"op":"replace","path":"/spec/rules/0/backendRefs/{place}/weight","value":{weight}}}"#
            )
        };
        let patch = format!("[{},{}]", weight(0, v1), weight(1, v2));
        self.kubectl.show(&[
            "-n",
            "shop",
            "patch",
            "httproute",
            "reviews",
            "--type",
            "json",
            "--patch",
            &patch,
        ])?;
        self.wait_accepted()
    }

    /// Prints diagnostics after a failure; errors in here are ignored.
    pub(crate) fn diagnose(&self) {
        let commands: [&[&str]; 6] = [
            &["-n", "weft-system", "get", "pods", "-o", "wide"],
            &[
                "-n",
                "weft-system",
                "logs",
                "deployment/weft-controller",
                "--tail=30",
            ],
            &["-n", "shop", "get", "pods", "-o", "wide"],
            &[
                "-n",
                "shop",
                "get",
                "events",
                "--field-selector=type!=Normal",
                "--sort-by=.lastTimestamp",
            ],
            &[
                "-n",
                "shop",
                "get",
                "httproutes,grpcroutes",
                "-o",
                "jsonpath={range .items[*]}{.kind} {.metadata.name}: {.status}{\"\\n\"}{end}",
            ],
            &[
                "-n",
                "shop",
                "logs",
                "-l",
                "app",
                "-c",
                "weft-proxy",
                "--prefix",
                "--tail=15",
                "--max-log-requests=20",
            ],
        ];
        for command in commands {
            if let Err(error) = self.kubectl.show(command) {
                eprintln!("{error:#}");
            }
        }
    }
}

impl Running {
    /// Waits for the end. Failed requests are counted; they are no error here.
    pub(crate) fn finish(self) -> anyhow::Result<Load> {
        let output = self
            .0
            .wait_with_output()
            .context("waiting for kubectl exec")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let summary: Value = serde_json::from_str(text.trim()).with_context(|| {
            format!(
                "weft-shop load ended with {} and wrote {text:?}",
                output.status
            )
        })?;
        for (cause, times) in summary["errors"].as_object().into_iter().flatten() {
            println!("  {times} requests failed: {cause}");
        }
        Ok(Load {
            sent: summary["sent"]
                .as_u64()
                .context("the summary of weft-shop load has no `sent`")?,
            failed: summary["failed"]
                .as_u64()
                .context("the summary of weft-shop load has no `failed`")?,
            versions: summary["versions"]
                .as_object()
                .into_iter()
                .flat_map(|all| all.keys().cloned())
                .collect(),
        })
    }
}

fn load_arguments(url: &str, arguments: &[&str]) -> Vec<String> {
    let exec = [
        "-n",
        "shop",
        "exec",
        "deploy/shopper",
        "-c",
        "shopper",
        "--",
        "weft-shop",
        "load",
        "--keep",
        "0",
    ];
    exec.iter()
        .chain(&["--url", url])
        .chain(arguments)
        .map(|&text| text.to_owned())
        .collect()
}

fn strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Returns `None` once the controller has accepted this generation of the route and resolved its
/// references.
fn why_not_accepted(route: &Value) -> Option<String> {
    let name = format!(
        "{} {}",
        route["kind"].as_str()?,
        route["metadata"]["name"].as_str()?
    );
    let ours = |parent: &&Value| parent["controllerName"] == CONTROLLER;
    let Some(parent) = list(&route["status"]["parents"]).iter().find(ours) else {
        return Some(format!("{name} has no status of {CONTROLLER}"));
    };
    for wanted in ["Accepted", "ResolvedRefs"] {
        let condition = list(&parent["conditions"])
            .iter()
            .find(|condition| condition["type"] == wanted);
        match condition {
            Some(condition)
                if condition["observedGeneration"] != route["metadata"]["generation"] =>
            {
                return Some(format!("{name}: {wanted} is of an older generation"));
            }
            Some(condition) if condition["status"] == "True" => {}
            Some(condition) => {
                return Some(format!(
                    "{name}: {wanted} is {}: {}",
                    condition["reason"], condition["message"]
                ));
            }
            None => return Some(format!("{name} has no condition {wanted}")),
        }
    }
    None
}

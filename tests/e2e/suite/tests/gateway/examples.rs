//! The examples under `examples/gateway`, applied unchanged and in the order of their README, next
//! to the sample shop. Their namespaces are fixed, so one test runs them all and deletes the
//! namespaces at its end.

cluster_tests! {
    run_alone_long Unmeshed gateway_examples_work_as_documented;
}

mod cases {
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::time::Duration;

    use anyhow::Context;
    use serde_json::json;
    use tokio::time::Instant;
    use weft_e2e::host::{self, Reply, curl, get, in_url, kubectl, run_in};
    use weft_e2e::https_client::{Attempt, HttpsClient, failures};
    use weft_e2e::{TestNamespace, eventually, eventually_within, objects};

    const NAMESPACES: [&str; 8] = [
        "shop",
        "edge",
        "edge-shared",
        "tenant-a",
        "tenant-b",
        "team-red",
        "team-blue",
        "edge-next",
    ];
    /// Shorter than the runner's limit, so that the namespaces are always deleted.
    const LIMIT: Duration = Duration::from_secs(270);

    pub(super) async fn gateway_examples_work_as_documented(
        ns: &TestNamespace,
    ) -> anyhow::Result<()> {
        for namespace in NAMESPACES {
            let there = kubectl(&["get", "namespace", "--ignore-not-found", namespace]).await?;
            anyhow::ensure!(there.is_empty(), "delete the namespace {namespace} first");
        }
        let examples = Examples::new(ns)?;
        let outcome = tokio::time::timeout(LIMIT, examples.all()).await;
        let outcome = outcome
            .context("the examples exceeded their time limit")
            .flatten();
        if outcome.is_err() {
            for namespace in NAMESPACES {
                let pods = ["-n", namespace, "get", "gateways,httproutes,pods,events"];
                eprintln!("{namespace}: {:?}", kubectl(&pods).await);
            }
        }
        let delete = [
            &["delete", "--ignore-not-found", "namespace"],
            &NAMESPACES[..],
        ]
        .concat();
        let removed = kubectl(&delete).await;
        std::fs::remove_dir_all(&examples.folder)?;
        outcome.and(removed.map(drop))
    }

    struct Examples<'a> {
        ns: &'a TestNamespace,
        /// The working directory of the README's commands. Holds the examples and the key that the
        /// commands generate.
        folder: PathBuf,
        applied: RefCell<BTreeSet<String>>,
    }

    impl<'a> Examples<'a> {
        fn new(ns: &'a TestNamespace) -> anyhow::Result<Self> {
            let folder = std::env::temp_dir().join(&ns.namespace);
            std::fs::create_dir_all(&folder)?;
            std::os::unix::fs::symlink(host::root().join("examples"), folder.join("examples"))?;
            Ok(Self {
                ns,
                folder,
                applied: RefCell::default(),
            })
        }

        async fn all(&self) -> anyhow::Result<()> {
            let edge = self.begin().await.context("README.md")?;
            self.health(&edge).await.context("health.yaml")?;
            self.headers(&edge).await.context("security-headers.yaml")?;
            self.redirect(&edge).await.context("https-redirect.yaml")?;
            self.canary(&edge).await.context("canary.yaml")?;
            self.blue_green(&edge).await.context("blue-green.yaml")?;
            self.shared().await.context("shared.yaml")?;
            self.dedicated().await.context("dedicated.yaml")?;
            self.several(&edge).await.context("several-gateways.yaml")?;
            self.none_left_out()
        }

        /// Fails unless every file was applied and is listed in the README.
        fn none_left_out(&self) -> anyhow::Result<()> {
            let folder = host::root().join("examples/gateway");
            let readme = std::fs::read_to_string(folder.join("README.md"))?;
            for file in std::fs::read_dir(folder)? {
                let name = file?.file_name().to_string_lossy().into_owned();
                let Some(example) = name.strip_suffix(".yaml") else {
                    continue;
                };
                let applied = self.applied.borrow().contains(example)
                    || readme.contains(&format!("kubectl apply -f examples/gateway/{name}\n"));
                anyhow::ensure!(applied, "{name} is not tested");
                let row = format!("| `{name}` |");
                anyhow::ensure!(readme.contains(&row), "{name} is not in the README");
            }
            Ok(())
        }

        async fn apply(&self, file: &str) -> anyhow::Result<()> {
            self.applied.borrow_mut().insert(file.to_owned());
            let file = format!("examples/gateway/{file}.yaml");
            kubectl(&["apply", "-f", &file]).await.map(drop)
        }

        async fn bash(&self, commands: &str) -> anyhow::Result<String> {
            let commands = format!("set -euo pipefail\n{commands}");
            run_in(&self.folder, "bash", &["-c", &commands])
                .await?
                .success()
        }

        /// Runs the commands of the README, from an empty cluster to the first response; returns
        /// the Gateway's address.
        async fn begin(&self) -> anyhow::Result<String> {
            let readme = std::fs::read_to_string(host::root().join("examples/gateway/README.md"))?;
            let commands = readme
                .split("```\n")
                .nth(1)
                .context("the README has no commands")?;
            let output = self.bash(commands).await?;
            anyhow::ensure!(
                output.contains(r#""app":"frontend""#),
                "the commands printed {output}"
            );
            self.ns
                .in_namespace("edge")
                .wait_until_programmed("public")
                .await
        }

        /// Sends an HTTPS request to the Gateway like the README.
        async fn secure(
            &self,
            address: &str,
            host: &str,
            path: &str,
            more: &[&str],
        ) -> anyhow::Result<Reply> {
            let resolve = format!("{host}:443:{}", in_url(address));
            let authority = self.folder.join("tls.crt");
            let authority = authority.to_string_lossy();
            let url = format!("https://{host}{path}");
            let common = ["--cacert", &authority, "--resolve", &resolve, &url];
            curl(&[&common[..], more].concat()).await
        }

        async fn health(&self, edge: &str) -> anyhow::Result<()> {
            self.apply("health").await?;
            let host = "shop.example.com";
            eventually("the health endpoint to respond", async || {
                let reply = self.secure(edge, host, "/health", &[]).await?;
                let healthy = json!({"app": "frontend", "healthy": true});
                anyhow::ensure!(reply.is(200)?.json()? == healthy, "{reply:?}");
                Ok(())
            })
            .await?;
            // Other paths and methods are served by the page.
            for (path, method) in [("/health/x", "GET"), ("/health", "POST")] {
                let reply = self
                    .secure(edge, host, path, &["--request", method])
                    .await?;
                let page = reply.is(200)?.json()?;
                anyhow::ensure!(page["catalogue"].is_object(), "{method} {path}: {reply:?}");
            }
            Ok(())
        }

        async fn headers(&self, edge: &str) -> anyhow::Result<()> {
            self.apply("security-headers").await?;
            eventually("the security headers to be set", async || {
                let reply = self.secure(edge, "secured.example.com", "/", &[]).await?;
                for (name, value) in [
                    (
                        "strict-transport-security",
                        "max-age=31536000; includeSubDomains",
                    ),
                    ("x-content-type-options", "nosniff"),
                    ("x-frame-options", "DENY"),
                    ("referrer-policy", "no-referrer"),
                    ("content-security-policy", "default-src 'self'"),
                ] {
                    anyhow::ensure!(reply.is(200)?.header(name) == Some(value), "{reply:?}");
                }
                anyhow::ensure!(reply.header("server").is_none(), "{reply:?}");
                Ok(())
            })
            .await
        }

        async fn redirect(&self, edge: &str) -> anyhow::Result<()> {
            self.apply("https-redirect").await?;
            let challenge = "/.well-known/acme-challenge/token";
            eventually("the redirect and the challenge to be served", async || {
                let reply = get(edge, 80, "shop.example.com", "/a?b=c").await?;
                let to = reply.is(301)?.header("location");
                anyhow::ensure!(to == Some("https://shop.example.com/a?b=c"), "{reply:?}");
                let reply = get(edge, 80, "shop.example.com", challenge).await?;
                anyhow::ensure!(reply.is(200)?.json()?["app"] == "frontend", "{reply:?}");
                // The exemption applies to one host only.
                let reply = get(edge, 80, "other.example.com", challenge).await?;
                reply.is(301).map(drop)
            })
            .await
        }

        /// Runs the command in the file's comment during traffic.
        async fn canary(&self, edge: &str) -> anyhow::Result<()> {
            self.apply("canary").await?;
            let file = host::root().join("examples/gateway/canary.yaml");
            let file = std::fs::read_to_string(file)?;
            let comment = file.lines().take_while(|line| line.starts_with('#'));
            let command = comment.skip_while(|line| !line.contains("kubectl"));
            let command: Vec<&str> = command.map(|line| line.trim_start_matches('#')).collect();
            let client =
                HttpsClient::accepting_any_certificate(edge, "canary.example.com", "/reviews/1")?;
            eventually("the canary route to serve", async || {
                let served = client.request().await?;
                anyhow::ensure!(served.status == 200, "{served:?}");
                Ok(())
            })
            .await?;
            let shift = async {
                tokio::time::sleep(Duration::from_secs(8)).await;
                self.bash(&command.join("\n")).await?;
                let shifted = Instant::now();
                tokio::time::sleep(Duration::from_secs(10)).await;
                Ok(shifted)
            };
            let (shifted, attempts) = client.requests_during(20, shift).await?;
            let failed: Vec<String> = failures(&attempts).collect();
            anyhow::ensure!(failed.is_empty(), "{failed:?}");
            let share = |attempts: &mut dyn Iterator<Item = &Attempt>| {
                let served: Vec<_> = attempts
                    .filter_map(|attempt| attempt.result.as_ref().ok())
                    .collect();
                let v2 = served
                    .iter()
                    .filter(|served| served.body["version"] == "v2");
                (v2.count() * 100 / served.len().max(1), served.len())
            };
            let in_force = shifted + Duration::from_secs(2);
            let before = share(
                &mut attempts
                    .iter()
                    .filter(|attempt| attempt.started < shifted - Duration::from_secs(1)),
            );
            let after = share(&mut attempts.iter().filter(|attempt| attempt.started > in_force));
            eprintln!(
                "v2 got {} % of {} attempts, then {} % of {}",
                before.0, before.1, after.0, after.1
            );
            anyhow::ensure!(before.1 >= 80 && after.1 >= 80, "{before:?} {after:?}");
            anyhow::ensure!(
                (1..=25).contains(&before.0),
                "the share should be 10 %: {before:?}"
            );
            anyhow::ensure!(
                (35..=65).contains(&after.0),
                "the share should be 50 %: {after:?}"
            );
            Ok(())
        }

        async fn blue_green(&self, edge: &str) -> anyhow::Result<()> {
            self.apply("blue-green").await?;
            for (header, version) in [
                ("x-other: green", "v1"),
                ("x-stage: green", "v2"),
                ("cookie: stage=green", "v2"),
                ("cookie: a=b; stage=green; c=d", "v2"),
                ("cookie: stage=greenish", "v1"),
                ("cookie: backstage=green", "v1"),
            ] {
                eventually(&format!("{version} for {header}"), async || {
                    let more = ["--header", header];
                    let reply = self
                        .secure(edge, "stage.example.com", "/reviews/1", &more)
                        .await?;
                    anyhow::ensure!(reply.is(200)?.json()?["version"] == version, "{reply:?}");
                    Ok(())
                })
                .await?;
            }
            Ok(())
        }

        async fn shared(&self) -> anyhow::Result<()> {
            self.apply("shared").await?;
            let address = self
                .ns
                .in_namespace("edge-shared")
                .wait_until_programmed("shared")
                .await?;
            eventually("each route to serve only on its listeners", async || {
                for (host, statuses) in [
                    ("own.example.com", [200, 404, 200]),
                    ("a.example.com", [404, 200, 200]),
                    ("b.example.com", [404, 404, 200]),
                ] {
                    for (port, status) in (8080..).zip(statuses) {
                        let reply = get(&address, port, host, "/").await?;
                        reply
                            .is(status)
                            .with_context(|| format!("{host} at {port}"))?;
                    }
                }
                Ok(())
            })
            .await
        }

        async fn dedicated(&self) -> anyhow::Result<()> {
            self.apply("dedicated").await?;
            let mut addresses = Vec::new();
            for colour in ["red", "blue"] {
                let address = self
                    .ns
                    .in_namespace(&format!("team-{colour}"))
                    .wait_until_programmed("own")
                    .await?;
                eventually(
                    &format!("the {colour} team's Gateway to respond"),
                    async || {
                        let reply = get(&address, 80, "any.example.com", "/").await?;
                        let to = format!("http://{colour}.example.com/");
                        anyhow::ensure!(
                            reply.is(302)?.header("location") == Some(&to),
                            "{reply:?}"
                        );
                        Ok(())
                    },
                )
                .await?;
                addresses.push(address);
            }
            anyhow::ensure!(
                addresses[0] != addresses[1],
                "both Gateways have {addresses:?}"
            );
            Ok(())
        }

        async fn several(&self, edge: &str) -> anyhow::Result<()> {
            self.apply("several-gateways").await?;
            let next = self
                .ns
                .in_namespace("edge-next")
                .wait_until_programmed("next")
                .await?;
            for address in [edge, &next] {
                eventually_within(
                    Duration::from_secs(20),
                    "the route to serve on both Gateways",
                    async || {
                        let reply = get(address, 80, "everywhere.example.org", "/").await?;
                        anyhow::ensure!(reply.is(200)?.json()?["app"] == "frontend", "{reply:?}");
                        Ok(())
                    },
                )
                .await?;
            }
            let shop = self.ns.in_namespace("shop");
            let route = shop
                .get(objects::GATEWAY, "HTTPRoute", "everywhere")
                .await?;
            let parents = route["status"]["parents"].as_array().map_or(0, Vec::len);
            anyhow::ensure!(
                parents == 2,
                "the status should have an entry for each Gateway: {}",
                route["status"]
            );
            Ok(())
        }
    }
}

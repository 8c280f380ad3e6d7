//! What a replica says of the proxies connected to it, as an annotation of the Secret: the leader sees only its own.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::Patch;
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::fingerprint;
use crate::identity::{Phase, Trust, TrustReceiver};
use crate::kubernetes;
use crate::subscribe::{Registry, Roots};
use crate::watch::ObjectKey;

/// Between two reports.
const EVERY: Duration = Duration::from_secs(1);
/// Names in one report.
const NAMED: usize = 5;
/// Names of annotations are this long at most, after their domain.
const NAME: usize = 63;

/// How far the proxies of one replica are with the phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub connected: usize,
    pub trusting: usize,
    pub renewed: usize,
    /// Pods that the phase waits for.
    pub waiting: Vec<String>,
}

/// A report, and what it is about: one of another phase or root says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) phase: String,
    pub(super) root: u64,
    pub(super) report: Report,
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            connected,
            trusting,
            renewed,
            waiting,
        } = &self.report;
        write!(
            f,
            "{} root={:016x} connected={connected} trusting={trusting} renewed={renewed} waiting={}",
            self.phase,
            self.root,
            waiting.join(",")
        )
    }
}

/// The text is no report.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoReport;

impl FromStr for About {
    type Err = NoReport;

    fn from_str(text: &str) -> Result<Self, NoReport> {
        let mut words = text.split(' ');
        let phase = words.next().unwrap_or_default().to_owned();
        let mut field = |name: &str| {
            let word = words.next().ok_or(NoReport)?;
            let value = word.strip_prefix(name).ok_or(NoReport)?;
            value.strip_prefix('=').ok_or(NoReport)
        };
        let number = |text: &str| text.parse().map_err(|_| NoReport);
        let root = u64::from_str_radix(field("root")?, 16).map_err(|_| NoReport)?;
        let report = Report {
            connected: number(field("connected")?)?,
            trusting: number(field("trusting")?)?,
            renewed: number(field("renewed")?)?,
            waiting: field("waiting")?
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        };
        Ok(Self {
            phase,
            root,
            report,
        })
    }
}

/// The annotation of a replica.
pub(super) fn annotation(replica: &str) -> String {
    let most = NAME - "roots-of.".len();
    // The end of a pod's name is what tells it apart.
    let from = replica.len().saturating_sub(most);
    let name = replica.get(from..).unwrap_or_default();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("weft.dev/roots-of.{name}")
}

/// Reports while a rotation is under way.
pub(super) struct Reporter {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) secret: String,
    /// What this replica is called.
    pub(super) name: String,
    pub(super) trust: TrustReceiver,
    pub(super) roots: Roots,
    pub(super) registry: Registry,
    pub(super) stop: CancellationToken,
}

impl Reporter {
    /// Until told to stop.
    pub(super) async fn run(mut self) {
        let mut said = None;
        loop {
            let trust = self.trust.borrow_and_update().clone();
            if trust.phase == Phase::Steady {
                said = None;
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    changed = self.trust.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let about = self.about(&trust);
            if said.as_ref() != Some(&about) && self.say(&about).await {
                said = Some(about);
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    fn about(&self, trust: &Trust) -> About {
        let root = fingerprint(trust.target());
        let version = self.roots.borrow().as_ref().map_or(0, |one| one.version);
        let found = self.registry.trusting(version, root);
        let waiting = match trust.phase {
            Phase::Renewing => found.unrenewed,
            Phase::Steady | Phase::Distributing { .. } => found.untrusting,
        };
        About {
            phase: trust.phase.word().to_owned(),
            root,
            report: Report {
                connected: found.connected,
                trusting: found.trusting,
                renewed: found.renewed,
                waiting: waiting
                    .iter()
                    .take(NAMED)
                    .map(ObjectKey::to_string)
                    .collect(),
            },
        }
    }

    async fn say(&self, about: &About) -> bool {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let name = annotation(&self.name);
        let patch = json!({"metadata": {"annotations": {name: about.to_string()}}});
        let patched = api
            .patch(&self.secret, &kubernetes::patch(), &Patch::Merge(&patch))
            .await;
        if let Err(error) = &patched {
            tracing::warn!(
                %error, secret = self.secret,
                "the state of the rotation is not reported; check the controller's Role for patching this Secret"
            );
        }
        patched.is_ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_back_as_it_prints() {
        for waiting in [
            vec![],
            vec!["shop/web-0".to_owned(), "shop/web-1".to_owned()],
        ] {
            let about = About {
                phase: "renewing".to_owned(),
                root: 0xabc,
                report: Report {
                    connected: 14,
                    trusting: 13,
                    renewed: 12,
                    waiting,
                },
            };
            assert_eq!(about.to_string().parse(), Ok(about));
        }
        for garbage in ["", "renewing", "renewing root=x connected=1", "a b c d e f"] {
            assert_eq!(garbage.parse::<About>(), Err(NoReport), "{garbage}");
        }
    }

    #[test]
    fn annotations_have_names_that_kubernetes_takes() {
        assert_eq!(
            annotation("weft-controller-6f4-x2x"),
            "weft.dev/roots-of.weft-controller-6f4-x2x"
        );
        let long = annotation(&format!("{}-tail", "a-".repeat(100)));
        let name = long.strip_prefix("weft.dev/").unwrap();
        assert!(name.len() <= NAME && name.ends_with("-tail"), "{long}");
    }
}

//! The report of a replica on the proxies connected to it, as an annotation of the Secret: the
//! leader sees only its own proxies.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::api::Patch;
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::identity::{Phase, RootFingerprint, Trust, TrustReceiver};
use crate::kubernetes;
use crate::subscribe::{Registry, Roots};
use crate::watch::ObjectKey;

/// The interval between reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// Names in one report.
const MAX_NAMES: usize = 5;
/// The maximum length of an annotation's name, without its domain.
const MAX_NAME: usize = 63;

/// The progress of the proxies of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub connected: usize,
    pub trusting: usize,
    pub renewed: usize,
    /// Names of pods that the phase waits for.
    pub waiting: Vec<String>,
}

/// A report with its phase and root: a report on others is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PhaseReport {
    pub(super) phase: String,
    pub(super) root: RootFingerprint,
    pub(super) report: Report,
}

impl fmt::Display for PhaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report {
            connected,
            trusting,
            renewed,
            waiting,
        } = &self.report;
        write!(
            f,
            "{} root={} connected={connected} trusting={trusting} renewed={renewed} \
             waiting={}",
            self.phase,
            self.root,
            waiting.join(",")
        )
    }
}

/// The text is not a report.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidReport;

impl FromStr for PhaseReport {
    type Err = InvalidReport;

    fn from_str(text: &str) -> Result<Self, InvalidReport> {
        let mut parts = text.split(' ');
        let phase = parts.next().unwrap_or_default().to_owned();
        let mut field = |name: &str| {
            let part = parts.next().ok_or(InvalidReport)?;
            let value = part.strip_prefix(name).ok_or(InvalidReport)?;
            value.strip_prefix('=').ok_or(InvalidReport)
        };
        let number = |text: &str| text.parse().map_err(|_| InvalidReport);
        let root = field("root")?.parse().map_err(|_| InvalidReport)?;
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

/// Returns the name of a replica's annotation.
pub(super) fn annotation(replica: &str) -> String {
    let most = MAX_NAME - "roots-of.".len();
    // The end of a pod's name is unique.
    let from = replica.len().saturating_sub(most);
    let name = replica.get(from..).unwrap_or_default();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("weft.dev/roots-of.{name}")
}

/// Writes reports while a rotation is under way.
pub(super) struct Reporter {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) secret: String,
    /// The name of this replica.
    pub(super) name: String,
    pub(super) trust: TrustReceiver,
    pub(super) roots: Roots,
    pub(super) registry: Registry,
    pub(super) stop: CancellationToken,
}

impl Reporter {
    /// Runs until `stop`.
    pub(super) async fn run(mut self) {
        let mut last = None;
        loop {
            let trust = self.trust.borrow_and_update().clone();
            if trust.phase == Phase::Steady {
                last = None;
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    changed = self.trust.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let about = self.about(&trust);
            if last.as_ref() != Some(&about) && self.write(&about).await {
                last = Some(about);
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    fn about(&self, trust: &Trust) -> PhaseReport {
        let root = RootFingerprint::of(trust.target());
        let version = self.roots.borrow().as_ref().map_or(0, |one| one.version);
        let found = self.registry.root_progress(version, root);
        let waiting = match trust.phase {
            Phase::Renewing => found.unrenewed,
            Phase::Steady | Phase::Distributing { .. } => found.untrusting,
        };
        PhaseReport {
            phase: trust.phase.name().to_owned(),
            root,
            report: Report {
                connected: found.connected,
                trusting: found.trusting,
                renewed: found.renewed,
                waiting: waiting
                    .iter()
                    .take(MAX_NAMES)
                    .map(ObjectKey::to_string)
                    .collect(),
            },
        }
    }

    async fn write(&self, about: &PhaseReport) -> bool {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let name = annotation(&self.name);
        let patch = json!({"metadata": {"annotations": {name: about.to_string()}}});
        let patched = api
            .patch(&self.secret, &kubernetes::patch(), &Patch::Merge(&patch))
            .await;
        if let Err(error) = &patched {
            tracing::warn!(
                %error, secret = self.secret,
                "the report on the rotation was not written; check that the controller's Role \
                 permits patching this Secret"
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
    fn phase_report_round_trips() {
        for waiting in [
            vec![],
            vec!["shop/web-0".to_owned(), "shop/web-1".to_owned()],
        ] {
            let about = PhaseReport {
                phase: "renewing".to_owned(),
                root: "abc".parse().unwrap(),
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
            assert_eq!(
                garbage.parse::<PhaseReport>(),
                Err(InvalidReport),
                "{garbage}"
            );
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
        assert!(name.len() <= MAX_NAME && name.ends_with("-tail"), "{long}");
    }
}

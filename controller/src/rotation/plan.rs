//! Decides whether a phase of the rotation is complete, and names what it waits for. Pure.

use std::time::Duration;

use super::report::Report;
use crate::identity::Phase;

/// The minimum time of renewing: a certificate that a replica signed before it read the new root
/// arrives within it.
const MIN_RENEWING: Duration = Duration::from_secs(10);
/// The tolerated difference between clocks: certificates expire by the clocks of their verifiers.
const CLOCK_SKEW: Duration = Duration::from_secs(120);
/// Names in one text.
const MAX_NAMES: usize = 5;

/// The durations of phases.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The minimum time of distributing: the kubelet updates files of ConfigMaps within it.
    pub settle: Duration,
    /// How long a phase waits for a proxy that does not follow.
    pub phase_timeout: Duration,
    /// The lifetime of certificates.
    pub life: Duration,
}

/// A replica of the controller that serves proxies, and its report on the phase.
#[derive(Clone, Debug)]
pub struct Replica {
    pub name: String,
    pub report: Option<Report>,
}

/// The state of the mesh as the leader collects it.
#[derive(Clone, Debug)]
pub struct State {
    /// Since the phase began.
    pub elapsed: Duration,
    pub replicas: Vec<Replica>,
    /// Pods with a proxy.
    pub pods: usize,
    /// The namespaces that reject the ConfigMap `weft-roots`; all others have the trusted roots.
    /// `None` while they do not.
    pub unwritten: Option<Vec<String>>,
}

/// The decision, and the progress of the phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the next phase begins.
    pub advance: bool,
    /// Whether the phase takes longer than `Bounds::phase_timeout`.
    pub late: bool,
    pub done: usize,
    pub of: usize,
    /// What the phase waits for, as text.
    pub waiting: Vec<String>,
}

impl Decision {
    /// Returns true if the phase ends without waiting for everybody.
    pub fn is_partial(&self) -> bool {
        self.done < self.of || !self.waiting.is_empty()
    }

    /// Returns the progress as `distributing, 12 of 14 proxies; waiting for shop/web-0`.
    pub fn text(&self, phase: &Phase) -> String {
        let mut text = format!("{}, {} of {} proxies", phase.name(), self.done, self.of);
        if !self.waiting.is_empty() {
            text.push_str("; waiting for ");
            text.push_str(&self.waiting.join(", "));
        }
        text
    }
}

/// Decides whether `phase` is complete.
pub fn decide(phase: &Phase, state: &State, bounds: &Bounds) -> Decision {
    let reports = || state.replicas.iter().filter_map(|one| one.report.as_ref());
    let connected: usize = reports().map(|report| report.connected).sum();
    let silent = state.replicas.iter().filter(|one| one.report.is_none());
    let mut waiting: Vec<String> = silent
        .map(|one| format!("controller {}", one.name))
        .collect();
    let reported = waiting.is_empty();
    let late = state.elapsed >= bounds.phase_timeout;
    let (advance, done, of) = match phase {
        Phase::Steady => (false, connected, connected),
        Phase::Distributing { .. } => {
            let without = match &state.unwritten {
                None => {
                    waiting.push("the ConfigMaps weft-roots".to_owned());
                    None
                }
                Some(without) => {
                    let names = without.iter();
                    waiting.extend(names.map(|name| format!("weft-roots in namespace {name}")));
                    Some(without.len())
                }
            };
            let trusting: usize = reports().map(|report| report.trusting).sum();
            let ours = reported && without.is_some() && state.elapsed >= bounds.settle;
            let all = trusting >= connected && without == Some(0);
            (ours && (all || late), trusting, connected)
        }
        Phase::Renewing => {
            let renewed: usize = reports().map(|report| report.renewed).sum();
            let unconnected = state.pods.saturating_sub(connected);
            if unconnected > 0 {
                waiting.push(format!("{unconnected} pods that are not connected"));
            }
            // A proxy with a certificate connects, and one that was cut off requests a new one when
            // it is back. A pod that stays away has most likely never had one, and does not delay
            // the withdrawal of the root.
            let all = reported && (unconnected == 0 || late) && renewed >= connected;
            let ended = state.elapsed >= bounds.life + CLOCK_SKEW;
            let advance = ended || (all && state.elapsed >= MIN_RENEWING);
            (advance, renewed, connected.max(state.pods))
        }
    };
    waiting.extend(reports().flat_map(|report| report.waiting.iter().cloned()));
    let more = waiting.len().saturating_sub(MAX_NAMES);
    waiting.truncate(MAX_NAMES);
    if more > 0 {
        waiting.push(format!("{more} more"));
    }
    Decision {
        advance,
        late,
        done,
        of,
        waiting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        settle: Duration::from_secs(120),
        phase_timeout: Duration::from_secs(600),
        life: Duration::from_secs(86_400),
    };

    fn distributing() -> Phase {
        Phase::Distributing {
            next: vec![1].into(),
        }
    }

    fn report(connected: usize, trusting: usize, renewed: usize) -> Option<Report> {
        Some(Report {
            connected,
            trusting,
            renewed,
            waiting: Vec::new(),
        })
    }

    /// Of replicas that report so; each proxy is of a pod of its own.
    fn state(seconds: u64, reports: &[Option<Report>]) -> State {
        let replicas = reports.iter().enumerate().map(|(place, report)| Replica {
            name: format!("weft-controller-{place}"),
            report: report.clone(),
        });
        State {
            elapsed: Duration::from_secs(seconds),
            replicas: replicas.collect(),
            pods: reports.iter().flatten().map(|one| one.connected).sum(),
            unwritten: Some(Vec::new()),
        }
    }

    fn advances(phase: &Phase, state: &State) -> bool {
        decide(phase, state, &BOUNDS).advance
    }

    #[test]
    fn next_root_signs_once_all_trust_it_and_files_are_updated() {
        let all = [report(9, 9, 0), report(5, 5, 0)];
        assert!(!advances(&distributing(), &state(119, &all)));
        assert!(advances(&distributing(), &state(120, &all)));
        let some = [report(9, 9, 0), report(5, 3, 0)];
        let decision = decide(&distributing(), &state(599, &some), &BOUNDS);
        assert!(!decision.advance && !decision.late);
        assert_eq!(
            decision.text(&distributing()),
            "distributing, 12 of 14 proxies"
        );
    }

    #[test]
    fn stuck_proxy_is_named_and_delays_the_rotation_for_a_while() {
        let mut stuck = state(600, &[report(2, 1, 0)]);
        if let Some(Some(report)) = stuck.replicas.first_mut().map(|one| &mut one.report) {
            report.waiting.push("shop/web-0".to_owned());
        }
        let decision = decide(&distributing(), &stuck, &BOUNDS);
        assert!(decision.advance && decision.late);
        assert_eq!(
            decision.text(&distributing()),
            "distributing, 1 of 2 proxies; waiting for shop/web-0"
        );
    }

    #[test]
    fn rotation_waits_for_controllers_without_limit() {
        let silent = state(100_000, &[report(2, 2, 0), None]);
        let decision = decide(&distributing(), &silent, &BOUNDS);
        assert!(!decision.advance);
        assert_eq!(decision.waiting, ["controller weft-controller-1"]);
        let mut unwritten = state(100_000, &[report(2, 2, 0)]);
        unwritten.unwritten = None;
        assert!(!advances(&distributing(), &unwritten));
    }

    #[test]
    fn namespace_that_rejects_the_roots_is_named_and_delays_the_rotation_for_a_while() {
        let refusing = |seconds| {
            let mut state = state(seconds, &[report(2, 2, 0)]);
            state.unwritten = Some(vec!["tenant".to_owned()]);
            decide(&distributing(), &state, &BOUNDS)
        };
        assert!(!refusing(599).advance);
        let late = refusing(600);
        assert!(late.advance && late.is_partial());
        assert_eq!(late.waiting, ["weft-roots in namespace tenant"]);
    }

    #[test]
    fn previous_root_is_withdrawn_once_all_have_renewed() {
        let renewing = Phase::Renewing;
        assert!(!advances(&renewing, &state(9, &[report(3, 3, 3)])));
        assert!(advances(&renewing, &state(10, &[report(3, 3, 3)])));
        assert!(!advances(&renewing, &state(50_000, &[report(3, 3, 2)])));
        assert!(!advances(
            &renewing,
            &state(50_000, &[report(3, 3, 3), None])
        ));
    }

    #[test]
    fn pods_that_do_not_connect_are_waited_for_a_little() {
        let unconnected = |seconds| {
            let mut state = state(seconds, &[report(3, 3, 3)]);
            state.pods = 5;
            decide(&Phase::Renewing, &state, &BOUNDS)
        };
        assert!(!unconnected(599).advance);
        let decision = unconnected(600);
        assert!(decision.advance && decision.late && decision.is_partial());
        assert_eq!((decision.done, decision.of), (3, 5));
        assert_eq!(decision.waiting, ["2 pods that are not connected"]);
    }

    #[test]
    fn previous_root_is_withdrawn_once_its_certificates_have_expired() {
        let reports = [report(3, 3, 2), None];
        assert!(!advances(&Phase::Renewing, &state(86_519, &reports)));
        assert!(advances(&Phase::Renewing, &state(86_520, &reports)));
    }

    #[test]
    fn names_beyond_the_maximum_are_counted() {
        let mut many = state(1, &[report(9, 0, 0)]);
        if let Some(Some(report)) = many.replicas.first_mut().map(|one| &mut one.report) {
            report.waiting = (0..9).map(|n| format!("shop/web-{n}")).collect();
        }
        let decision = decide(&distributing(), &many, &BOUNDS);
        assert_eq!(decision.waiting.len(), MAX_NAMES + 1);
        assert_eq!(decision.waiting[MAX_NAMES], "4 more");
    }
}

//! Whether a phase of the rotation is over, and what it waits for. Pure.

use std::time::Duration;

use super::report::Report;
use crate::identity::Phase;

/// A certificate that a replica signed as the last before it learned of the new root is on its way for less than this.
const RENEWING_LEAST: Duration = Duration::from_secs(10);
/// Certificates end by the clocks of others.
const CLOCKS: Duration = Duration::from_secs(120);
/// Names in one text.
const NAMED: usize = 5;

/// How long phases take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The root to come is distributed for this long at least: the kubelet brings files of ConfigMaps within it.
    pub settle: Duration,
    /// A proxy that does not acknowledge is waited for this long.
    pub patience: Duration,
    /// How long certificates last.
    pub life: Duration,
}

/// A replica of the controller that serves, and what it reports of the phase.
#[derive(Clone, Debug)]
pub struct Replica {
    pub name: String,
    pub report: Option<Report>,
}

/// What the leader sees.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Since the phase began.
    pub elapsed: Duration,
    pub replicas: Vec<Replica>,
    /// Pods with a proxy.
    pub pods: usize,
    /// The namespaces whose ConfigMap `weft-roots` cannot be written; all others hold what is trusted now. `None` while
    /// they do not.
    pub unwritten: Option<Vec<String>>,
}

/// What to do, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The next phase begins.
    pub advance: bool,
    /// Longer than it should take.
    pub late: bool,
    pub done: usize,
    pub of: usize,
    /// What is missing, for people.
    pub waiting: Vec<String>,
}

impl Decision {
    /// Somebody is not waited for.
    pub fn is_partial(&self) -> bool {
        self.done < self.of || !self.waiting.is_empty()
    }

    /// As `distributing, 12 of 14 proxies; waiting for shop/web-0`.
    pub fn text(&self, phase: &Phase) -> String {
        let mut text = format!("{}, {} of {} proxies", phase.word(), self.done, self.of);
        if !self.waiting.is_empty() {
            text.push_str("; waiting for ");
            text.push_str(&self.waiting.join(", "));
        }
        text
    }
}

/// Whether `phase` is over.
pub fn decide(phase: &Phase, seen: &Seen, bounds: &Bounds) -> Decision {
    let reports = || seen.replicas.iter().filter_map(|one| one.report.as_ref());
    let connected: usize = reports().map(|report| report.connected).sum();
    let silent = seen.replicas.iter().filter(|one| one.report.is_none());
    let mut waiting: Vec<String> = silent
        .map(|one| format!("controller {}", one.name))
        .collect();
    let reported = waiting.is_empty();
    let late = seen.elapsed >= bounds.patience;
    let (advance, done, of) = match phase {
        Phase::Steady => (false, connected, connected),
        Phase::Distributing { .. } => {
            let without = match &seen.unwritten {
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
            let ours = reported && without.is_some() && seen.elapsed >= bounds.settle;
            let all = trusting >= connected && without == Some(0);
            (ours && (all || late), trusting, connected)
        }
        Phase::Renewing => {
            let renewed: usize = reports().map(|report| report.renewed).sum();
            let strangers = seen.pods.saturating_sub(connected);
            if strangers > 0 {
                waiting.push(format!("{strangers} pods that are not connected"));
            }
            // A proxy that has a certificate connects, and one that was cut off asks for a new one when it is back: a pod
            // that goes on being away has most likely never had one, and is no reason to keep a root that is to go.
            let all = reported && (strangers == 0 || late) && renewed >= connected;
            let ended = seen.elapsed >= bounds.life + CLOCKS;
            let advance = ended || (all && seen.elapsed >= RENEWING_LEAST);
            (advance, renewed, connected.max(seen.pods))
        }
    };
    waiting.extend(reports().flat_map(|report| report.waiting.iter().cloned()));
    let more = waiting.len().saturating_sub(NAMED);
    waiting.truncate(NAMED);
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
        patience: Duration::from_secs(600),
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
    fn seen(seconds: u64, reports: &[Option<Report>]) -> Seen {
        let replicas = reports.iter().enumerate().map(|(place, report)| Replica {
            name: format!("weft-controller-{place}"),
            report: report.clone(),
        });
        Seen {
            elapsed: Duration::from_secs(seconds),
            replicas: replicas.collect(),
            pods: reports.iter().flatten().map(|one| one.connected).sum(),
            unwritten: Some(Vec::new()),
        }
    }

    fn advances(phase: &Phase, seen: &Seen) -> bool {
        decide(phase, seen, &BOUNDS).advance
    }

    #[test]
    fn the_new_root_signs_once_all_trust_it_and_files_have_come() {
        let all = [report(9, 9, 0), report(5, 5, 0)];
        assert!(!advances(&distributing(), &seen(119, &all)));
        assert!(advances(&distributing(), &seen(120, &all)));
        let some = [report(9, 9, 0), report(5, 3, 0)];
        let decision = decide(&distributing(), &seen(599, &some), &BOUNDS);
        assert!(!decision.advance && !decision.late);
        assert_eq!(
            decision.text(&distributing()),
            "distributing, 12 of 14 proxies"
        );
    }

    #[test]
    fn a_stuck_proxy_is_named_and_does_not_block_for_ever() {
        let mut stuck = seen(600, &[report(2, 1, 0)]);
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
    fn the_control_plane_itself_is_waited_for_without_end() {
        let silent = seen(100_000, &[report(2, 2, 0), None]);
        let decision = decide(&distributing(), &silent, &BOUNDS);
        assert!(!decision.advance);
        assert_eq!(decision.waiting, ["controller weft-controller-1"]);
        let mut unwritten = seen(100_000, &[report(2, 2, 0)]);
        unwritten.unwritten = None;
        assert!(!advances(&distributing(), &unwritten));
    }

    #[test]
    fn a_namespace_that_refuses_the_roots_is_named_and_does_not_block_for_ever() {
        let refusing = |seconds| {
            let mut seen = seen(seconds, &[report(2, 2, 0)]);
            seen.unwritten = Some(vec!["tenant".to_owned()]);
            decide(&distributing(), &seen, &BOUNDS)
        };
        assert!(!refusing(599).advance);
        let late = refusing(600);
        assert!(late.advance && late.is_partial());
        assert_eq!(late.waiting, ["weft-roots in namespace tenant"]);
    }

    #[test]
    fn the_old_root_goes_once_all_have_renewed() {
        let renewing = Phase::Renewing;
        assert!(!advances(&renewing, &seen(9, &[report(3, 3, 3)])));
        assert!(advances(&renewing, &seen(10, &[report(3, 3, 3)])));
        assert!(!advances(&renewing, &seen(50_000, &[report(3, 3, 2)])));
        assert!(!advances(
            &renewing,
            &seen(50_000, &[report(3, 3, 3), None])
        ));
    }

    #[test]
    fn pods_that_do_not_connect_are_waited_for_a_little() {
        let strangers = |seconds| {
            let mut seen = seen(seconds, &[report(3, 3, 3)]);
            seen.pods = 5;
            decide(&Phase::Renewing, &seen, &BOUNDS)
        };
        assert!(!strangers(599).advance);
        let decision = strangers(600);
        assert!(decision.advance && decision.late && decision.is_partial());
        assert_eq!((decision.done, decision.of), (3, 5));
        assert_eq!(decision.waiting, ["2 pods that are not connected"]);
    }

    #[test]
    fn the_old_root_goes_when_all_that_it_signed_has_ended() {
        let reports = [report(3, 3, 2), None];
        assert!(!advances(&Phase::Renewing, &seen(86_519, &reports)));
        assert!(advances(&Phase::Renewing, &seen(86_520, &reports)));
    }

    #[test]
    fn many_names_are_counted() {
        let mut many = seen(1, &[report(9, 0, 0)]);
        if let Some(Some(report)) = many.replicas.first_mut().map(|one| &mut one.report) {
            report.waiting = (0..9).map(|n| format!("shop/web-{n}")).collect();
        }
        let decision = decide(&distributing(), &many, &BOUNDS);
        assert_eq!(decision.waiting.len(), NAMED + 1);
        assert_eq!(decision.waiting[NAMED], "4 more");
    }
}

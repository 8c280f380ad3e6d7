//! What is counted of decisions on who may call, as handles by policy: they are made when
//! configuration changes, and go with their policy.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use serde::{Serialize, Serializer};
use weft_ir::PolicyId;

use super::labels::{Direction, Pairs};

/// What was decided on a request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthorizationDecision {
    Allowed,
    /// An `AUDIT` policy matched; the request was let through.
    Audited,
    Denied,
}

impl AuthorizationDecision {
    const ALL: [Self; 3] = [Self::Allowed, Self::Audited, Self::Denied];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Audited => "audited",
            Self::Denied => "denied",
        }
    }
}

impl Serialize for AuthorizationDecision {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// The decisions by one policy, or by none.
#[derive(Debug, Default)]
pub struct DecisionCounts([AtomicU64; AuthorizationDecision::ALL.len()]);

impl DecisionCounts {
    pub fn count(&self, decision: AuthorizationDecision) {
        if let Some(count) = self.0.get(decision as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Those that have occurred.
    fn counts(&self) -> impl Iterator<Item = (AuthorizationDecision, u64)> {
        let all = AuthorizationDecision::ALL.into_iter().zip(&self.0);
        all.map(|(decision, count)| (decision, count.load(Relaxed)))
            .filter(|(_, count)| *count > 0)
    }
}

/// The counters of the policies in force; `None`: of decisions by no policy.
type Known = HashMap<Option<PolicyId>, Arc<DecisionCounts>>;

/// The counters of all policies in force in this proxy.
#[derive(Debug, Default)]
pub struct DecisionSeries(Mutex<(Option<Direction>, Known)>);

impl DecisionSeries {
    /// Returns the counters of decisions by no policy.
    pub fn unnamed(&self, direction: Direction) -> Arc<DecisionCounts> {
        let mut state = self.state();
        state.0 = Some(direction);
        state.1.entry(None).or_default().clone()
    }

    /// Keeps the counters of `policies` alone, and makes those that are missing.
    pub fn set_policies<'a>(
        &self,
        policies: impl Iterator<Item = &'a PolicyId>,
    ) -> HashMap<PolicyId, Arc<DecisionCounts>> {
        let mut state = self.state();
        let mut kept = HashMap::new();
        for id in policies {
            let key = Some(id.clone());
            let counts = state.1.get(&key).cloned().unwrap_or_default();
            kept.insert(id.clone(), counts);
        }
        state.1.retain(|id, _| id.is_none());
        let policies = kept.iter();
        state
            .1
            .extend(policies.map(|(id, counts)| (Some(id.clone()), counts.clone())));
        kept
    }

    fn state(&self) -> MutexGuard<'_, (Option<Direction>, Known)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the series out at each scrape.
#[derive(Debug)]
pub(super) struct DecisionCollector(pub(super) Arc<DecisionSeries>);

impl Collector for DecisionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (direction, known) = {
            let state = self.0.state();
            (state.0, state.1.clone())
        };
        let counts = |(id, of): (Option<PolicyId>, Arc<DecisionCounts>)| {
            let counts: Vec<_> = of.counts().collect();
            counts.into_iter().map(move |count| (id.clone(), count))
        };
        let counts: Vec<_> = known.into_iter().flat_map(counts).collect();
        let Some(direction) = direction.filter(|_| !counts.is_empty()) else {
            return Ok(());
        };
        let mut family = encoder.encode_descriptor(
            "weft_authorization_decisions",
            "Decisions on requests and opaque connections.",
            None,
            MetricType::Counter,
        )?;
        for (id, (decision, count)) in counts {
            family
                .encode_family(&pairs(direction, decision, id.as_ref()))?
                .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
        }
        Ok(())
    }
}

fn pairs(direction: Direction, decision: AuthorizationDecision, id: Option<&PolicyId>) -> Pairs {
    let mut pairs = vec![
        ("direction", direction.as_str().to_owned()),
        ("decision", decision.as_str().to_owned()),
    ];
    if let Some(id) = id {
        pairs.push(("policy_kind", id.kind().to_owned()));
        let namespace = id.namespace.as_deref();
        pairs.extend(namespace.map(|of| ("policy_namespace", of.to_owned())));
        pairs.push(("policy_name", id.name.to_string()));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Metrics;
    use super::*;

    fn id(name: &str) -> PolicyId {
        PolicyId {
            namespace: Some("shop".into()),
            name: name.into(),
            kind: weft_ir::PolicyKind::Authorization,
        }
    }

    #[test]
    fn series_of_removed_policy_are_removed() {
        let metrics = Metrics::new();
        let series = &metrics.decisions;
        series
            .unnamed(Direction::Inbound)
            .count(AuthorizationDecision::Denied);
        let both = [id("a"), id("b")];
        let counts = series.set_policies(both.iter());
        counts[&id("a")].count(AuthorizationDecision::Allowed);
        counts[&id("b")].count(AuthorizationDecision::Audited);
        let line = |decision, labels| {
            format!(
                "weft_authorization_decisions_total{{direction=\"inbound\",decision=\"{decision}\"{labels}}} 1"
            )
        };
        let a = r#",policy_kind="AuthorizationPolicy",policy_namespace="shop",policy_name="a""#;
        let b = a.replace("\"a\"", "\"b\"");
        let text = metrics.encode().unwrap();
        for line in [line("denied", ""), line("allowed", a), line("audited", &b)] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        series.set_policies(both[..1].iter());
        let text = metrics.encode().unwrap();
        assert!(text.contains(&line("allowed", a)), "{text}");
        assert!(!text.contains(&line("audited", &b)), "{text}");
    }
}

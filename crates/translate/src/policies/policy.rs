//! A policy by itself: its rules or providers, its targets as they are written, and its faults.

use std::sync::Arc;

use weft_ir::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Pattern, PolicyEffect, PolicyId,
    PolicyKind, TrustDomain,
};
use weft_policy::{Action, AuthenticationPolicySpec};

use super::authentication::{Found, KeyLookups, ProviderReader};
use super::rules::RuleReader;
use super::targets::{TargetSpec, of_cluster, of_namespace};
use crate::conditions::join;
use crate::limits::{POLICY_BYTES, POLICY_PATTERNS, POLICY_RULES, Size};
use crate::objects::{self, Meta, ProtectiveSpec};

/// A policy of any kind.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(super) id: PolicyId,
    pub(super) generation: i64,
    creation: String,
    /// What its targets enforce; `None` for an `AUDIT` policy with faults, which protects nothing.
    pub(super) effect: Option<PolicyEffect>,
    /// Size of the rules for one target.
    pub(super) size: Size,
    pub(super) targets: Vec<TargetSpec>,
    /// Why it is invalid.
    pub(super) fault: Option<String>,
    /// What its rules mean, for the message of a valid policy.
    pub(super) notes: Vec<String>,
    /// Whether a rule has conditions on requests or their tokens, and with which action.
    pub(super) requests: Option<AuthorizationAction>,
    /// What an AuthenticationPolicy refers to.
    pub(super) found: Found,
    /// Its providers without keys, and why.
    pub(super) without_keys: Vec<String>,
}

/// What a spec of either kind has beside its targets.
struct Body<'a> {
    action: Action,
    rules: &'a [weft_policy::AuthorizationRule],
}

impl Policy {
    pub(super) fn of_namespace(of: &objects::AuthorizationPolicy, domain: &TrustDomain) -> Self {
        let objects::AuthorizationPolicy { metadata, spec } = of;
        let namespace = metadata.namespace.as_str();
        let (body, targets) = match spec {
            ProtectiveSpec::Valid(spec) => {
                let (action, rules) = (spec.action, spec.rules.as_slice());
                (Ok(Body { action, rules }), Some(&spec.target_refs))
            }
            ProtectiveSpec::Unreadable(spec) => (Err(&*spec.reason), spec.targets.as_ref()),
        };
        let (targets, fault) = of_namespace(targets.map(Vec::as_slice), namespace);
        Self::new(metadata, Some(namespace), body, (targets, fault), domain)
    }

    pub(super) fn of_cluster(
        of: &objects::ClusterAuthorizationPolicy,
        domain: &TrustDomain,
    ) -> Self {
        let objects::ClusterAuthorizationPolicy { metadata, spec } = of;
        let (body, targets) = match spec {
            ProtectiveSpec::Valid(spec) => {
                let (action, rules) = (spec.action, spec.rules.as_slice());
                (Ok(Body { action, rules }), Some(&spec.targets))
            }
            ProtectiveSpec::Unreadable(spec) => (Err(&*spec.reason), spec.targets.as_ref()),
        };
        let (targets, fault) = of_cluster(targets.map(Vec::as_slice));
        Self::new(metadata, None, body, (targets, fault), domain)
    }

    pub(super) fn of_tokens(of: &objects::AuthenticationPolicy, lookups: &KeyLookups<'_>) -> Self {
        let objects::AuthenticationPolicy { metadata, spec } = of;
        let namespace = metadata.namespace.as_str();
        let (spec, targets) = match spec {
            ProtectiveSpec::Valid(spec) => (Ok(spec), Some(&spec.target_refs)),
            ProtectiveSpec::Unreadable(spec) => (Err(&*spec.reason), spec.targets.as_ref()),
        };
        let (targets, target_fault) = of_namespace(targets.map(Vec::as_slice), namespace);
        let kind = PolicyKind::Authentication;
        let mut policy = Self::closed(metadata, Some(namespace), kind, targets);
        policy.fault = match spec {
            Err(why) => Some(unreadable(why)),
            Ok(spec) => {
                let read = policy.providers(spec, lookups);
                target_fault.or(read.err())
            }
        };
        if policy.fault.is_some() {
            policy.effect = Some(PolicyEffect::Invalid);
            policy.size = policy.size_of(PolicyEffect::Invalid);
        }
        policy
    }

    /// Sets the effect. The error is what is wrong with the providers.
    fn providers(
        &mut self,
        spec: &AuthenticationPolicySpec,
        lookups: &KeyLookups<'_>,
    ) -> Result<(), String> {
        let namespace = self.id.namespace.clone().unwrap_or_default();
        let mut reader = ProviderReader::new(&namespace, lookups);
        let effect = PolicyEffect::Tokens(Arc::new(reader.read(spec)));
        self.size = self.size_of(effect.clone());
        self.effect = Some(effect);
        self.found = reader.found;
        self.notes = reader.notes;
        self.without_keys = reader.without_keys;
        if !reader.faults.is_empty() {
            return Err(join(reader.faults.iter()));
        }
        let Size { bytes, .. } = self.size;
        if bytes > POLICY_BYTES {
            return Err(format!(
                "providers: they take {bytes} bytes, and the limit of a policy is {POLICY_BYTES}; \
                 use fewer"
            ));
        }
        Ok(())
    }

    /// Returns true if an AuthenticationPolicy would be read as before.
    pub(super) fn holds(&self, lookups: &KeyLookups<'_>) -> bool {
        self.found.holds(lookups)
    }

    /// A policy that denies everything.
    fn closed(
        meta: &Meta,
        namespace: Option<&str>,
        kind: PolicyKind,
        targets: Vec<TargetSpec>,
    ) -> Self {
        let id = PolicyId {
            namespace: namespace.map(Arc::from),
            name: Arc::from(&*meta.name),
            kind,
        };
        Self {
            id,
            generation: meta.generation,
            creation: meta.creation_timestamp.clone(),
            effect: Some(PolicyEffect::Invalid),
            size: Size::default(),
            targets,
            fault: None,
            notes: Vec::new(),
            requests: None,
            found: Found::default(),
            without_keys: Vec::new(),
        }
    }

    fn new(
        meta: &Meta,
        namespace: Option<&str>,
        body: Result<Body<'_>, &str>,
        (targets, target_fault): (Vec<TargetSpec>, Option<String>),
        domain: &TrustDomain,
    ) -> Self {
        let mut policy = Self::closed(meta, namespace, PolicyKind::Authorization, targets);
        let audits = matches!(
            body,
            Ok(Body {
                action: Action::Audit,
                ..
            })
        );
        match body {
            Err(why) => policy.fault = Some(unreadable(why)),
            Ok(Body { action, rules }) => {
                let read = policy.rules(action, rules, domain);
                policy.fault = target_fault.or(read.err());
            }
        }
        if policy.fault.is_some() {
            policy.effect = (!audits).then_some(PolicyEffect::Invalid);
            policy.size = policy.size_of(PolicyEffect::Invalid);
        }
        policy
    }

    /// Sets the effect. The error is what is wrong with the rules.
    fn rules(
        &mut self,
        action: Action,
        specs: &[weft_policy::AuthorizationRule],
        domain: &TrustDomain,
    ) -> Result<(), String> {
        let action = match action {
            Action::Allow => AuthorizationAction::Allow,
            Action::Deny => AuthorizationAction::Deny,
            Action::Audit => AuthorizationAction::Audit,
        };
        if specs.len() > POLICY_RULES {
            return Err(format!(
                "rules: the policy has {} rules, and the limit is {POLICY_RULES}; use several \
                 policies",
                specs.len()
            ));
        }
        if specs.is_empty() && action != AuthorizationAction::Allow {
            return Err("rules: DENY and AUDIT require at least one rule".to_owned());
        }
        let namespace = self.id.namespace.clone();
        let mut reader = RuleReader::new(domain, namespace.as_deref());
        let rules = reader.rules(specs);
        if let Some(over) = reader.patterns.exceeded() {
            return Err(format!(
                "rules: {over}, the limit of a policy; use exact and prefix matches, or several \
                 policies"
            ));
        }
        if !reader.faults.is_empty() {
            return Err(join(reader.faults.iter()));
        }
        self.notes = notes(action, &rules);
        let mut all = rules.iter();
        let reads_requests = all.any(|rule| rule.reads_requests() || rule.reads_tokens());
        self.requests = reads_requests.then_some(action);
        let effect = PolicyEffect::Rules(action, rules);
        self.size = self.size_of(effect.clone());
        self.effect = Some(effect);
        let Size { bytes, compiled } = self.size;
        if bytes > POLICY_BYTES {
            return Err(format!(
                "rules: they take {bytes} bytes, and the limit of a policy is {POLICY_BYTES}; use \
                 several policies"
            ));
        }
        if compiled > POLICY_PATTERNS {
            return Err(format!(
                "rules: their regular expressions compile to {compiled} bytes, and the limit of a \
                 policy is {POLICY_PATTERNS}; use exact and prefix matches"
            ));
        }
        Ok(())
    }

    fn size_of(&self, effect: PolicyEffect) -> Size {
        Size::of_policy(&AuthorizationPolicy {
            id: self.id.clone(),
            ports: Vec::new(),
            effect,
        })
    }

    /// Those of the cluster first, the oldest first, then by name.
    pub(super) fn order(&self) -> (bool, &str, &str, &str) {
        let PolicyId {
            namespace,
            name,
            kind: _,
        } = &self.id;
        let of_namespace = namespace.is_some();
        let namespace = namespace.as_deref().unwrap_or_default();
        (of_namespace, &self.creation, namespace, name)
    }

    /// The namespace whose objects the policy targets; `None` for all.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.id.namespace.as_deref()
    }
}

fn unreadable(why: &str) -> String {
    format!("spec: {why}; correct it, or upgrade Weft if its definitions are newer")
}

fn notes(action: AuthorizationAction, rules: &[AuthorizationRule]) -> Vec<String> {
    let mut notes = Vec::new();
    if rules.is_empty() {
        notes.push("it has no rule, so it allows nobody".to_owned());
    }
    for (place, rule) in rules.iter().enumerate() {
        if rule.sources.as_ref().is_some_and(Vec::is_empty) {
            let then = match action {
                AuthorizationAction::Allow => "allows",
                AuthorizationAction::Deny => "denies",
                AuthorizationAction::Audit => "reports",
            };
            notes.push(format!(
                "rules[{place}].sources is empty, so the rule matches no client and {then} nothing; \
                 without the field it matches every client"
            ));
        }
    }
    notes
}

impl Size {
    /// The size of a policy at one target.
    pub(super) fn of_policy(policy: &AuthorizationPolicy) -> Self {
        let mut seen = std::collections::HashSet::new();
        let rules = policy.rules().iter();
        let conditions = rules.flat_map(AuthorizationRule::request_conditions);
        let patterns = conditions.flat_map(weft_ir::RequestMatch::patterns);
        let new = patterns.filter(|of| seen.insert(of.as_str()));
        Self {
            bytes: policy.wire_size(),
            compiled: new.map(Pattern::compiled_size).sum(),
        }
    }
}

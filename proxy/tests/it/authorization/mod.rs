//! Authorization: the policies that a proxy gets are enforced on every request and connection, and
//! on those that are open when the policies change.

use std::sync::Arc;
use std::time::Duration;

use weft_api::{encode, proto};
use weft_ir::{
    Authorization, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Authorizations,
    DefaultAuthorization, PathMatch, PolicyEffect, PolicyId, RequestMatch, SourceMatch,
};

use crate::support::*;

mod gateway;
mod opaque;
mod requests;
mod responses;
mod revocation;
mod store;
mod streams;
mod udp;

pub(super) use AuthorizationAction::{Allow, Audit, Deny};

/// A policy of the namespace `shop`.
fn policy(
    name: &str,
    action: AuthorizationAction,
    rules: Vec<AuthorizationRule>,
) -> AuthorizationPolicy {
    AuthorizationPolicy {
        id: PolicyId {
            namespace: Some("shop".into()),
            name: name.into(),
            kind: weft_ir::PolicyKind::Authorization,
        },
        ports: Vec::new(),
        effect: PolicyEffect::Rules(action, rules),
    }
}

fn from(sources: &[SourceMatch]) -> AuthorizationRule {
    AuthorizationRule {
        sources: Some(sources.to_vec()),
        ..AuthorizationRule::default()
    }
}

fn to_requests(requests: &[RequestMatch]) -> AuthorizationRule {
    AuthorizationRule {
        requests: requests.to_vec(),
        ..AuthorizationRule::default()
    }
}

fn any() -> Vec<AuthorizationRule> {
    vec![AuthorizationRule::default()]
}

fn account(name: &str) -> SourceMatch {
    SourceMatch::Identity(identity(name))
}

fn network(text: &str) -> SourceMatch {
    SourceMatch::Network(text.parse().unwrap())
}

fn prefix(path: &str) -> RequestMatch {
    RequestMatch {
        path: Some(PathMatch::Prefix(path.to_owned())),
        ..RequestMatch::default()
    }
}

/// Allows everybody without policies that allow.
fn of(policies: Vec<AuthorizationPolicy>) -> Authorization {
    Authorization {
        policies: policies.into_iter().map(Arc::new).collect(),
        default: DefaultAuthorization::Allow,
    }
}

fn pod_policies(policies: Vec<AuthorizationPolicy>) -> proto::Resource {
    encode::authorizations(&Authorizations {
        workload: of(policies),
        ..Authorizations::default()
    })
}

pub(super) fn enforce(pod: &Pod, policies: Vec<AuthorizationPolicy>) {
    pod.tell(vec![pod_policies(policies)]);
}

/// Nobody may call.
pub(super) fn deny_all() -> Vec<AuthorizationPolicy> {
    vec![policy("nobody", Deny, any())]
}

/// Returns the value of a series.
fn count(metrics: &str, series: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0, |count| count.trim().parse().unwrap())
}

/// The series of decisions by a policy of the namespace `shop`; `""`: by none.
fn series(direction: &str, decision: &str, name: &str) -> String {
    let policy = match name {
        "" => String::new(),
        name => format!(
            r#",policy_kind="AuthorizationPolicy",policy_namespace="shop",policy_name="{name}""#
        ),
    };
    format!(
        r#"weft_authorization_decisions_total{{direction="{direction}",decision="{decision}"{policy}}}"#
    )
}

/// A second is the most that a revocation may take.
async fn within_a_second<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(1);
    tokio::time::timeout(limit, future)
        .await
        .expect("within a second")
}

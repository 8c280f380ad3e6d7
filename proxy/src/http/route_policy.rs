//! Which timeouts and retries a request has: of its rules, and of the policy of its backend.
//!
//! Source: Gateway API v1.6.3, `HTTPRouteTimeouts` and `HTTPRouteRetry` (GEP-1731).

use weft_ir::{GrpcStatuses, Retry, RouteId, Rule, Timeouts, TrafficPolicy};

/// The timeouts and retries of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RoutePolicy<'a> {
    pub timeouts: Timeouts,
    pub retry: Option<&'a Retry>,
    /// What a gRPC call is retried for as well.
    pub grpc_statuses: GrpcStatuses,
    /// The route that the retries are of; `None` if they are of the cluster's policy.
    pub route: Option<&'a RouteId>,
}

impl<'a> RoutePolicy<'a> {
    /// Returns `None` if the rule has neither: the request is sent once.
    pub fn of(rule: &'a Rule) -> Option<Self> {
        let policy = Self {
            timeouts: rule.timeouts,
            retry: rule.retry.as_ref(),
            route: rule.retry.as_ref().map(|_| &rule.route),
            ..Self::default()
        };
        (policy != Self::default()).then_some(policy)
    }

    /// Merges the policies of a gateway's rule and of the Service's: the shorter timeouts, and the
    /// Service's retries.
    pub fn merge(gateway: Option<Self>, service: Option<Self>) -> Option<Self> {
        let (Some(outer), Some(inner)) = (gateway, service) else {
            return gateway.or(service);
        };
        Some(Self {
            timeouts: Timeouts {
                request: outer.timeouts.request.shorter(inner.timeouts.request),
                backend: outer.timeouts.backend.shorter(inner.timeouts.backend),
            },
            retry: inner.retry.or(outer.retry),
            route: inner.route.or(outer.route),
            ..Self::default()
        })
    }

    /// Adds what the policy of the backend says and the rules do not. Returns `None` if nothing is
    /// left to do.
    pub fn or_backend(rules: Option<Self>, backend: Option<&'a TrafficPolicy>) -> Option<Self> {
        let mut policy = rules.unwrap_or_default();
        if let (None, Some(retries)) = (policy.retry, backend.and_then(|of| of.retries.as_ref())) {
            policy.retry = Some(&retries.retry);
            policy.grpc_statuses = retries.grpc_statuses;
        }
        if let Some(timeouts) = backend.and_then(|of| of.timeouts) {
            let Timeouts { request, backend } = &mut policy.timeouts;
            *request = request.or(timeouts.requests.request);
            *backend = backend.or(timeouts.requests.backend);
        }
        let retries = policy.retry.is_some_and(|retry| retry.attempts > 0);
        let Timeouts { request, backend } = policy.timeouts;
        let ends = request.get().or(backend.get()).is_some();
        (retries || ends).then_some(policy)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weft_ir::{PolicyTimeouts, Retries, TimeLimit};

    use super::*;

    fn retry(attempts: u32) -> Retry {
        Retry {
            codes: Vec::new(),
            attempts,
            backoff: Duration::ZERO,
        }
    }

    #[test]
    fn merged_policy_takes_shorter_timeouts_and_service_retries() {
        let route = |name: &str| RouteId {
            kind: weft_ir::RouteKind::Http,
            namespace: "shop".into(),
            name: name.into(),
        };
        let of_gateway = (retry(1), route("gateway"));
        let of_service = (retry(2), route("service"));
        fn policy(
            request: u64,
            backend: u64,
            of: Option<&(Retry, RouteId)>,
        ) -> Option<RoutePolicy<'_>> {
            let millis = |n| (n > 0).then(|| Duration::from_millis(n));
            let timeouts = Timeouts {
                request: millis(request).into(),
                backend: millis(backend).into(),
            };
            Some(RoutePolicy {
                timeouts,
                retry: of.map(|(retry, _)| retry),
                route: of.map(|(_, route)| route),
                ..RoutePolicy::default()
            })
        }
        for (gateway, service, both) in [
            (None, None, None),
            (policy(5, 0, None), None, policy(5, 0, None)),
            (None, policy(0, 5, None), policy(0, 5, None)),
            (policy(5, 0, None), policy(7, 3, None), policy(5, 3, None)),
            (
                policy(9, 2, Some(&of_gateway)),
                policy(7, 3, Some(&of_service)),
                policy(7, 2, Some(&of_service)),
            ),
            (
                policy(0, 0, Some(&of_gateway)),
                policy(7, 0, None),
                policy(7, 0, Some(&of_gateway)),
            ),
        ] {
            assert_eq!(RoutePolicy::merge(gateway, service), both);
        }
    }

    #[test]
    fn policy_of_backend_retries_what_no_rule_speaks_of() {
        let of_backend = |attempts| TrafficPolicy {
            retries: Some(Retries {
                retry: retry(attempts),
                grpc_statuses: GrpcStatuses::default().with(14).unwrap(),
            }),
            ..TrafficPolicy::default()
        };
        let (on, off) = (of_backend(3), of_backend(0));
        let (of_rule, turned_off) = (retry(1), Retry::off());
        let rule = |retry| RoutePolicy {
            retry,
            ..RoutePolicy::default()
        };
        let timed = RoutePolicy {
            timeouts: Timeouts {
                request: TimeLimit::Within(Duration::from_secs(1)),
                backend: TimeLimit::Unsaid,
            },
            ..RoutePolicy::default()
        };
        for (rules, backend, attempts, statuses) in [
            (None, None, None, false),
            (None, Some(&on), Some(3), true),
            (None, Some(&off), None, false),
            (Some(timed), Some(&on), Some(3), true),
            (Some(timed), Some(&off), Some(0), true),
            (Some(timed), None, Some(0), false),
            (Some(rule(Some(&of_rule))), Some(&on), Some(1), false),
            (Some(rule(Some(&of_rule))), Some(&off), Some(1), false),
            // A rule without attempts turns retries off.
            (Some(rule(Some(&turned_off))), Some(&on), None, false),
        ] {
            let both = RoutePolicy::or_backend(rules, backend);
            let seen = both.map(|of| of.retry.map_or(0, |retry| retry.attempts));
            assert_eq!(seen, attempts, "{rules:?} {backend:?}");
            let seen = both.is_some_and(|of| of.grpc_statuses.contains(14));
            assert_eq!(seen, statuses, "{rules:?} {backend:?}");
        }
    }
    #[test]
    fn timeouts_of_rule_come_before_those_of_backend_field_by_field() {
        use TimeLimit::{Unlimited, Unsaid};
        let seconds = |n| TimeLimit::Within(Duration::from_secs(n));
        let of_backend = |request, backend| TrafficPolicy {
            timeouts: Some(PolicyTimeouts {
                requests: Timeouts { request, backend },
                connect: None,
            }),
            ..TrafficPolicy::default()
        };
        for (rule, backend, both) in [
            ((Unsaid, Unsaid), (Unsaid, Unsaid), None),
            ((Unsaid, Unsaid), (seconds(3), seconds(2)), Some((3, 2))),
            ((seconds(9), Unsaid), (seconds(3), seconds(2)), Some((9, 2))),
            ((Unsaid, seconds(1)), (seconds(3), seconds(2)), Some((3, 1))),
            ((Unlimited, Unsaid), (seconds(3), seconds(2)), Some((0, 2))),
            ((Unlimited, Unlimited), (seconds(3), seconds(2)), None),
        ] {
            let (request, each) = rule;
            let rules = RoutePolicy {
                timeouts: Timeouts {
                    request,
                    backend: each,
                },
                ..RoutePolicy::default()
            };
            let policy = of_backend(backend.0, backend.1);
            let seen = RoutePolicy::or_backend(Some(rules), Some(&policy)).map(|of| {
                let seconds = |limit: TimeLimit| limit.get().map_or(0, |limit| limit.as_secs());
                (seconds(of.timeouts.request), seconds(of.timeouts.backend))
            });
            assert_eq!(seen, both, "{rule:?} {backend:?}");
        }
    }

    #[test]
    fn rule_of_the_service_without_a_limit_leaves_that_of_the_gateway() {
        use TimeLimit::{Unlimited, Unsaid};
        let limit = TimeLimit::Within(Duration::from_secs(1));
        for (one, other, both) in [
            (Unlimited, Unsaid, Unlimited),
            (Unsaid, Unlimited, Unlimited),
            (Unlimited, limit, limit),
            (limit, Unlimited, limit),
            (limit, Unsaid, limit),
            (Unsaid, Unsaid, Unsaid),
        ] {
            assert_eq!(one.shorter(other), both, "{one:?} {other:?}");
        }
    }
}

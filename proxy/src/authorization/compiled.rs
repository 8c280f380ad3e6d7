//! One version of the policies, by what they apply to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_ir::{Authorization, Authorizations, RouteId, RouteSection};

use super::target::{Parts, Target};
use crate::telemetry::authorization::DecisionCounts;

/// Targets by the name of a part.
type Named<N> = Vec<(N, Arc<Target>)>;

#[derive(Clone, Default)]
pub(super) struct Compiled {
    pub(super) version: u64,
    /// Decides everywhere, in place of all others.
    everywhere: Option<Arc<Target>>,
    workload: Option<Arc<Target>>,
    listeners: HashMap<u16, Named<String>>,
    routes: HashMap<RouteId, Named<Option<String>>>,
    /// Of listeners and routes that are removed, and may still take traffic.
    removed: Vec<Removed>,
    /// A rule has a condition on paths.
    pub(super) reads_paths: bool,
}

#[derive(Clone)]
struct Removed {
    place: Place,
    target: Arc<Target>,
    until: Instant,
}

#[derive(Clone, PartialEq, Eq)]
enum Place {
    Listener(u16, String),
    Route(RouteSection),
}

impl Compiled {
    pub(super) fn new(of: &Authorizations, parts: Parts<'_>) -> Self {
        let target = |of: &Authorization| Target::of(of, parts).map(Arc::new);
        let mut compiled = Self {
            workload: target(&of.workload),
            ..Self::default()
        };
        for ((port, listener), of) in &of.listeners {
            if let Some(target) = target(of) {
                let of_port = compiled.listeners.entry(*port).or_default();
                of_port.push((listener.clone(), target));
            }
        }
        for (RouteSection { route, rule }, of) in &of.routes {
            if let Some(target) = target(of) {
                let of_route = compiled.routes.entry(route.clone()).or_default();
                of_route.push((rule.clone(), target));
            }
        }
        compiled.reads_paths = compiled.targets().any(|(_, target)| target.reads_paths)
            || compiled.workload.iter().any(|target| target.reads_paths);
        compiled
    }

    /// Denies everything.
    pub(super) fn closed(unnamed: &Arc<DecisionCounts>) -> Self {
        Self {
            everywhere: Some(Arc::new(Target::closed(unnamed))),
            ..Self::default()
        }
    }

    /// Returns true if everything is allowed.
    pub(super) fn is_open(&self) -> bool {
        self.everywhere.is_none()
            && self.workload.is_none()
            && self.removed.is_empty()
            && self.targets().next().is_none()
    }

    fn targets(&self) -> impl Iterator<Item = (Place, &Arc<Target>)> {
        let listeners = self.listeners.iter().flat_map(|(port, of)| {
            let place = move |name: &String| Place::Listener(*port, name.clone());
            of.iter().map(move |(name, target)| (place(name), target))
        });
        let routes = self.routes.iter().flat_map(|(route, of)| {
            let section = move |rule: &Option<String>| RouteSection {
                route: route.clone(),
                rule: rule.clone(),
            };
            of.iter()
                .map(move |(rule, target)| (Place::Route(section(rule)), target))
        });
        listeners.chain(routes)
    }

    pub(super) fn has_removed(&self) -> bool {
        !self.removed.is_empty()
    }

    /// Keeps the policies of `before` for what `of` does not name, for as long as `grace`.
    pub(super) fn keep_unnamed(&mut self, before: &Self, of: &Authorizations, grace: Duration) {
        let now = Instant::now();
        let is_named = |place: &Place| match place {
            Place::Listener(port, name) => {
                let is = |(p, n): &(u16, String)| p == port && n == name;
                of.listeners.iter().any(|(named, _)| is(named))
            }
            Place::Route(section) => of.routes.iter().any(|(named, _)| named == section),
        };
        let targets = before.targets().map(|(place, target)| Removed {
            place,
            target: target.clone(),
            until: now + grace,
        });
        let earlier = before.removed.iter().filter(|of| of.until > now).cloned();
        let unnamed = targets.chain(earlier).filter(|of| !is_named(&of.place));
        self.removed = unnamed.collect();
        self.reads_paths |= self.removed.iter().any(|of| of.target.reads_paths);
    }

    /// Drops what was kept for listeners and routes that exist.
    pub(super) fn settle(
        &mut self,
        has_listener: impl Fn(u16, &str) -> bool,
        has_route: impl Fn(&RouteId) -> bool,
    ) {
        self.removed.retain(|of| match &of.place {
            Place::Listener(port, name) => !has_listener(*port, name),
            Place::Route(section) => !has_route(&section.route),
        });
    }

    pub(super) fn of_workload(&self) -> Option<&Arc<Target>> {
        self.everywhere.as_ref().or(self.workload.as_ref())
    }

    pub(super) fn of_listener(&self, port: u16, name: &str) -> Option<&Arc<Target>> {
        let of_port = || self.listeners.get(&port)?.iter().find(|(of, _)| of == name);
        let removed = || {
            self.removed(|place| matches!(place, Place::Listener(p, n) if *p == port && n == name))
                .next()
        };
        let named = || of_port().map(|(_, target)| target);
        let everywhere = self.everywhere.as_ref();
        everywhere.or_else(named).or_else(removed)
    }

    /// Returns what applies to a rule: the policies of the rule, and of its whole route.
    pub(super) fn of_route<'a, 'b>(
        &'a self,
        section: &'b RouteSection,
    ) -> impl Iterator<Item = &'a Arc<Target>> + use<'a, 'b> {
        let applies = move |rule: &Option<String>| rule.is_none() || *rule == section.rule;
        let sections = self.routes.get(&section.route).into_iter().flatten();
        let named = sections.filter(move |(of, _)| applies(of));
        let removed = self.removed(move |place| {
            matches!(place, Place::Route(of) if of.route == section.route && applies(&of.rule))
        });
        named.map(|(_, target)| target).chain(removed)
    }

    fn removed<'a, P: Fn(&Place) -> bool>(
        &'a self,
        is: P,
    ) -> impl Iterator<Item = &'a Arc<Target>> + use<'a, P> {
        let kept = self.removed.iter();
        kept.filter(move |of| is(&of.place) && Instant::now() < of.until)
            .map(|of| &of.target)
    }
}

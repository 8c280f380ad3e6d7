//! Traffic policies: which of them are in effect at each Service port, and their statuses.
//!
//! What is invalid is as if it were absent: its target gets what the next level says.
//!
//! Source: GEP-713 (inherited policies).

mod constraints;
mod fits;
mod merge;
mod policy;
mod sections;
mod servers;
mod status;
mod winners;

use std::sync::Arc;

use crate::cluster::endpoints::TrafficPolicies;
use crate::cluster::services::Services;
use crate::memo::{ByIdentity, Memo, ObjectMemo};
use crate::objects;
use crate::output::{PolicyStatus, TrafficPolicyStatus};
use constraints::{Constraint, Constraints};
use policy::Policy;
use winners::Winners;

pub(crate) use servers::{LimitedWorkloads, ServerLimits};
pub(crate) use winners::AppliedPolicies;

/// The policies of every Service port.
#[derive(Debug)]
pub(crate) struct TrafficTranslation {
    pub(crate) effective: ByIdentity<TrafficPolicies>,
    /// The policies that apply at each port, whether or not others replace their sections.
    pub(crate) applied: Arc<AppliedPolicies>,
    /// By namespace and name.
    pub(crate) statuses: Vec<TrafficPolicyStatus>,
    /// Of XBackendTrafficPolicies, by namespace and name.
    pub(crate) constraints: Vec<PolicyStatus>,
}

/// Translates policies, reusing the results of the last translation.
#[derive(Debug, Default)]
pub(crate) struct TrafficTranslator {
    policies: ObjectMemo<objects::TrafficPolicy, (), Arc<Policy>>,
    constraints: ObjectMemo<objects::BackendTrafficPolicy, (), Option<Arc<Constraint>>>,
    last: Memo<Inputs, TrafficTranslation>,
}

type Inputs = (
    Vec<ByIdentity<objects::TrafficPolicy>>,
    Vec<ByIdentity<objects::BackendTrafficPolicy>>,
    ByIdentity<Services>,
);

impl TrafficTranslator {
    /// `control_plane`: the namespace in which policies can target the mesh.
    pub(crate) fn translate(
        &mut self,
        (objects, direct): (
            &[Arc<objects::TrafficPolicy>],
            &[Arc<objects::BackendTrafficPolicy>],
        ),
        services: &ByIdentity<Services>,
        control_plane: &str,
    ) -> ByIdentity<TrafficTranslation> {
        let from = (
            ByIdentity::all(objects),
            ByIdentity::all(direct),
            services.clone(),
        );
        let (policies, constraints) = (&mut self.policies, &mut self.constraints);
        self.last.get(from, || {
            let mut policies =
                policies.map(objects, (), |of| Arc::new(Policy::new(of, control_plane)));
            policies.sort_by(|a, b| a.order().cmp(&b.order()));
            let winners = Winners::new(&policies, services);
            let mut statuses: Vec<TrafficPolicyStatus> = policies
                .iter()
                .map(|of| status::status(of, &winners, services))
                .collect();
            statuses.sort_by(|a, b| a.id.cmp(&b.id));
            let direct = constraints.map(direct, (), |of| Constraint::new(of).map(Arc::new));
            let mut direct: Vec<Arc<Constraint>> = direct.into_iter().flatten().collect();
            direct.sort_by(|a, b| a.order().cmp(&b.order()));
            let of_services = Constraints::new(&direct);
            let mut constraints: Vec<PolicyStatus> = direct
                .iter()
                .map(|of| of_services.status(of, services))
                .collect();
            constraints.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
            let (effective, applied) = winners.at_ports(services, &of_services);
            TrafficTranslation {
                effective: ByIdentity(Arc::new(effective)),
                applied: Arc::new(applied),
                statuses,
                constraints,
            }
        })
    }
}

//! The condition `weft.dev/Programmed` of policies on who may call and on tokens.

use weft_translate::AuthorizationStatus;

use super::{add, condition};
use crate::replicas::tally::authorizations::own_counts;
use crate::replicas::{Others, report};
use crate::snapshot::Snapshot;
use crate::subscribe::Registry;

/// Returns the statuses of a snapshot with the condition added to each target for which its policy
/// is accepted. The counts are of all targets.
pub(crate) fn authorizations(
    snapshot: &Snapshot,
    registry: &Registry,
    others: &Others,
) -> Vec<AuthorizationStatus> {
    let counts = own_counts(snapshot, registry);
    let statuses = snapshot.authorizations.iter().map(|status| {
        let mut status = status.clone();
        let mut count = counts.get(&status.id).cloned().unwrap_or_default();
        let key = report::policy_key(&status.id);
        count.add(&others.count(&key, status.generation, 0));
        let mut programmed = condition(&count, 0, "no connected proxy enforces the policy");
        if let Some(why) = &status.without_keys {
            // Whoever waits for the policy waits for its tokens to be accepted.
            programmed.status = false;
            programmed.reason = "KeysMissing".to_owned();
            programmed.message = format!(
                "tokens are refused, since keys are missing: {why}; {}",
                programmed.message
            );
        }
        add(&mut status.ancestors, &programmed);
        status
    });
    statuses.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

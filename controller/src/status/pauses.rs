//! Defers the writes of statuses that count proxies, because counts change often. Does no I/O.
//!
//! An edit of a route causes one write: proxies have [`PAUSE`] to acknowledge it before the status
//! counts them as pending. Between replicas, a proxy that moves is counted by none or by both for a
//! moment: a change of a count alone is written once it has been stable for a while.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use super::due::{Due, Subject};
use crate::watch::ObjectKey;

/// The minimum time between two writes for the same generation; the time from a proxy's answer to
/// the write; and the time that proxies have before a status counts them as pending.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a change of a count alone must be stable before it is written, with several replicas:
/// longer than a report takes.
pub(super) const SETTLED: Duration = Duration::from_secs(10);
/// The maximum number of objects whose last status is kept.
const CAPACITY: usize = 50_000;

type Key = (Subject, ObjectKey);

#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// Writes within the last [`PAUSE`]: when, and for which generation.
    recent: HashMap<Key, (Instant, Option<i64>)>,
    /// Due statuses with pending proxies: since when.
    behind: HashMap<Key, Instant>,
    /// The hash of the last written status, without counts.
    written: HashMap<Key, u64>,
    /// Due statuses that differ from the last one in counts alone: since when.
    counting: HashMap<Key, Instant>,
}

/// Hashes a status without its counts.
fn hash_without_counts(due: &Due) -> u64 {
    let mut hasher = DefaultHasher::new();
    due.generation.hash(&mut hasher);
    due.content.hash_without_counts(&mut hasher);
    hasher.finish()
}

impl Pauses {
    /// Removes the statuses that must wait from `due`. Returns when the first of them may be
    /// written. A change of a count alone waits until it has been stable for `settled`.
    pub(super) fn hold(
        &mut self,
        due: &mut Vec<Due>,
        now: Instant,
        settled: Duration,
    ) -> Option<Instant> {
        self.recent.retain(|_, (at, _)| *at + PAUSE > now);
        let before = std::mem::take(&mut self.behind);
        let counting = std::mem::take(&mut self.counting);
        let mut first: Option<Instant> = None;
        due.retain(|due| {
            let key = (due.subject, due.key.clone());
            let mut until = self.recent.get(&key).and_then(|(at, generation)| {
                let waits = *generation == due.generation && !due.content.is_urgent();
                waits.then(|| *at + PAUSE)
            });
            if due.content.is_pending() {
                let since = before.get(&key).copied().unwrap_or(now);
                until = until.max(Some(since + PAUSE));
                self.behind.insert(key.clone(), since);
            }
            if !due.content.is_urgent() && self.written.get(&key) == Some(&hash_without_counts(due))
            {
                let since = counting.get(&key).copied().unwrap_or(now);
                until = until.max(Some(since + settled));
                self.counting.insert(key, since);
            }
            let Some(until) = until.filter(|until| *until > now) else {
                return true;
            };
            first = Some(first.map_or(until, |first| first.min(until)));
            false
        });
        first
    }

    pub(super) fn wrote(&mut self, due: &Due, now: Instant) {
        let key = (due.subject, due.key.clone());
        if self.written.len() >= CAPACITY {
            self.written.clear();
        }
        self.written.insert(key.clone(), hash_without_counts(due));
        self.recent.insert(key, (now, due.generation));
    }

    /// Returns the pause after a proxy's answer: none if a status waits for answers.
    pub(super) fn after_an_answer(&self) -> Duration {
        if self.behind.is_empty() {
            PAUSE
        } else {
            Duration::ZERO
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_ir::RouteKind;
    use weft_translate::Condition;

    use super::super::due::Content;
    use super::super::merge::{Entry, List};
    use super::*;

    fn due(generation: i64, reason: &str) -> Due {
        let condition = Condition {
            kind: "weft.dev/Programmed".into(),
            status: false,
            reason: reason.into(),
            message: String::new(),
        };
        let entry = Entry {
            reference: json!({"name": "reviews"}),
            controller: crate::names::CONTROLLER_NAME,
            conditions: vec![condition],
        };
        Due {
            subject: Subject::Route(RouteKind::Http),
            key: ObjectKey::new("shop", "r"),
            generation: Some(generation),
            content: Content::Entries(List::Parents, vec![entry]),
        }
    }

    /// Returns until when the status waits; `None` if it is written now.
    fn deferred(pauses: &mut Pauses, due: Due) -> Option<Instant> {
        let mut all = vec![due];
        let until = pauses.hold(&mut all, Instant::now(), Duration::ZERO);
        assert_eq!(all.is_empty(), until.is_some());
        until
    }

    #[tokio::test(start_paused = true)]
    async fn counts_are_deferred_but_rejections_and_new_generations_are_not() {
        let mut pauses = Pauses::default();
        assert_eq!(deferred(&mut pauses, due(2, "Programmed")), None);
        pauses.wrote(&due(2, "Programmed"), Instant::now());
        let until = deferred(&mut pauses, due(2, "Programmed"));
        assert_eq!(until, Some(Instant::now() + PAUSE));
        assert_eq!(deferred(&mut pauses, due(3, "Programmed")), None);
        assert_eq!(deferred(&mut pauses, due(2, "Refused")), None);
        tokio::time::advance(PAUSE).await;
        assert_eq!(deferred(&mut pauses, due(2, "Programmed")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn with_replicas_a_count_alone_is_written_once_it_is_stable() {
        let mut pauses = Pauses::default();
        let of = |reason: &str, message: &str| {
            let mut due = due(2, reason);
            if let Content::Entries(_, entries) = &mut due.content {
                entries[0].conditions[0].message = message.into();
            }
            due
        };
        let mut deferred = |due: Due| {
            let mut all = vec![due];
            pauses.hold(&mut all, Instant::now(), SETTLED);
            if let [due] = &all[..] {
                pauses.wrote(due, Instant::now());
            }
            all.is_empty()
        };
        assert!(!deferred(of("Programmed", "3 of 3")), "the first");
        tokio::time::advance(PAUSE).await;
        assert!(deferred(of("Programmed", "2 of 2")));
        tokio::time::advance(SETTLED / 2).await;
        assert!(deferred(of("Programmed", "4 of 4")));
        assert!(!deferred(of("Refused", "3 of 4")), "more than a count");
        tokio::time::advance(SETTLED).await;
        assert!(!deferred(of("Programmed", "3 of 3")), "again");
        tokio::time::advance(SETTLED).await;
        assert!(deferred(of("Programmed", "4 of 4")));
        tokio::time::advance(SETTLED).await;
        assert!(!deferred(of("Programmed", "4 of 4")), "it has stood");
    }

    #[tokio::test(start_paused = true)]
    async fn proxies_have_a_second_before_they_count_as_pending() {
        let mut pauses = Pauses::default();
        let begin = Instant::now();
        assert_eq!(pauses.after_an_answer(), PAUSE);
        let until = Some(begin + PAUSE);
        assert_eq!(deferred(&mut pauses, due(2, "Pending")), until);
        assert_eq!(pauses.after_an_answer(), Duration::ZERO);
        tokio::time::advance(PAUSE / 2).await;
        assert_eq!(deferred(&mut pauses, due(3, "Pending")), until, "no longer");
        // They have acknowledged it.
        assert_eq!(deferred(&mut pauses, due(3, "Programmed")), None);
        assert_eq!(pauses.after_an_answer(), PAUSE);

        assert!(deferred(&mut pauses, due(4, "Pending")).is_some());
        tokio::time::advance(PAUSE).await;
        assert_eq!(
            deferred(&mut pauses, due(4, "Pending")),
            None,
            "they have not"
        );
    }
}

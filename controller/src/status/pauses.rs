//! Which statuses wait before they are written, and how long: they count proxies, and counts change often. Decides only.
//!
//! An edit of a route is one write: the proxies are given [`COUNTS`] to take it, so that what is written is that they
//! have. Only what takes them longer is said to be pending. Among several replicas a proxy that changes from one to another
//! is counted by none or by both for a moment: a count alone is written once it has stood.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use super::due::{Due, Subject};
use crate::watch::ObjectKey;

/// Between two writes of the same generation of a route or a policy; from a proxy's word to the write; and from what
/// proxies have yet to take to the write that says so.
const COUNTS: Duration = Duration::from_secs(1);

/// How long a count alone has differed before it is written, where replicas report to each other: longer than a report
/// takes.
pub(super) const SETTLED: Duration = Duration::from_secs(10);
/// Objects that are remembered, at most.
const REMEMBERED: usize = 50_000;

type Key = (Subject, ObjectKey);

#[derive(Debug, Default)]
pub(super) struct Pauses {
    /// What was written within [`COUNTS`]: when, and of which generation.
    recent: HashMap<Key, (Instant, Option<i64>)>,
    /// Of what is due and says that proxies are behind: since when.
    behind: HashMap<Key, Instant>,
    /// What was written last, but for counts.
    written: HashMap<Key, u64>,
    /// Of what is due and differs from that in counts alone: since when.
    counting: HashMap<Key, Instant>,
}

/// What an object's status is to say, but for counts.
fn but_for_counts(due: &Due) -> u64 {
    let mut hasher = DefaultHasher::new();
    due.generation.hash(&mut hasher);
    due.content.but_for_counts(&mut hasher);
    hasher.finish()
}

impl Pauses {
    /// Takes out of `due` what has to wait; when the first of it may be written.
    /// A count alone waits until it has stood for `settled`.
    pub(super) fn hold(
        &mut self,
        due: &mut Vec<Due>,
        now: Instant,
        settled: Duration,
    ) -> Option<Instant> {
        self.recent.retain(|_, (at, _)| *at + COUNTS > now);
        let before = std::mem::take(&mut self.behind);
        let counting = std::mem::take(&mut self.counting);
        let mut first: Option<Instant> = None;
        due.retain(|due| {
            let key = (due.subject, due.key.clone());
            let mut until = self.recent.get(&key).and_then(|(at, generation)| {
                let waits = *generation == due.generation && !due.content.is_urgent();
                waits.then(|| *at + COUNTS)
            });
            if due.content.is_pending() {
                let since = before.get(&key).copied().unwrap_or(now);
                until = until.max(Some(since + COUNTS));
                self.behind.insert(key.clone(), since);
            }
            if !due.content.is_urgent() && self.written.get(&key) == Some(&but_for_counts(due)) {
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
        if self.written.len() >= REMEMBERED {
            self.written.clear();
        }
        self.written.insert(key.clone(), but_for_counts(due));
        self.recent.insert(key, (now, due.generation));
    }

    /// How long after a proxy's word is looked again: at once where that may be what a status waits for.
    pub(super) fn after_a_proxys_word(&self) -> Duration {
        if self.behind.is_empty() {
            COUNTS
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
            controller: crate::CONTROLLER_NAME,
            conditions: vec![condition],
        };
        Due {
            subject: Subject::Route(RouteKind::Http),
            key: ObjectKey::new("shop", "r"),
            generation: Some(generation),
            content: Content::Entries(List::Parents, vec![entry]),
        }
    }

    /// Until when it waits; `None`: it is to be written now.
    fn put_off(pauses: &mut Pauses, due: Due) -> Option<Instant> {
        let mut all = vec![due];
        let until = pauses.hold(&mut all, Instant::now(), Duration::ZERO);
        assert_eq!(all.is_empty(), until.is_some());
        until
    }

    #[tokio::test(start_paused = true)]
    async fn counts_wait_a_second_and_refusals_and_new_generations_do_not() {
        let mut pauses = Pauses::default();
        assert_eq!(put_off(&mut pauses, due(2, "Programmed")), None);
        pauses.wrote(&due(2, "Programmed"), Instant::now());
        let until = put_off(&mut pauses, due(2, "Programmed"));
        assert_eq!(until, Some(Instant::now() + COUNTS));
        assert_eq!(put_off(&mut pauses, due(3, "Programmed")), None);
        assert_eq!(put_off(&mut pauses, due(2, "Refused")), None);
        tokio::time::advance(COUNTS).await;
        assert_eq!(put_off(&mut pauses, due(2, "Programmed")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn among_replicas_a_count_alone_is_written_once_it_has_stood() {
        let mut pauses = Pauses::default();
        let of = |reason: &str, message: &str| {
            let mut due = due(2, reason);
            if let Content::Entries(_, entries) = &mut due.content {
                entries[0].conditions[0].message = message.into();
            }
            due
        };
        let mut put_off = |due: Due| {
            let mut all = vec![due];
            pauses.hold(&mut all, Instant::now(), SETTLED);
            if let [due] = &all[..] {
                pauses.wrote(due, Instant::now());
            }
            all.is_empty()
        };
        assert!(!put_off(of("Programmed", "3 of 3")), "the first");
        tokio::time::advance(COUNTS).await;
        assert!(put_off(of("Programmed", "2 of 2")));
        tokio::time::advance(SETTLED / 2).await;
        assert!(put_off(of("Programmed", "4 of 4")));
        assert!(!put_off(of("Refused", "3 of 4")), "more than a count");
        tokio::time::advance(SETTLED).await;
        assert!(!put_off(of("Programmed", "3 of 3")), "again");
        tokio::time::advance(SETTLED).await;
        assert!(put_off(of("Programmed", "4 of 4")));
        tokio::time::advance(SETTLED).await;
        assert!(!put_off(of("Programmed", "4 of 4")), "it has stood");
    }

    #[tokio::test(start_paused = true)]
    async fn proxies_have_a_second_before_they_are_said_to_be_behind() {
        let mut pauses = Pauses::default();
        let begin = Instant::now();
        assert_eq!(pauses.after_a_proxys_word(), COUNTS);
        let until = Some(begin + COUNTS);
        assert_eq!(put_off(&mut pauses, due(2, "Pending")), until);
        assert_eq!(pauses.after_a_proxys_word(), Duration::ZERO);
        tokio::time::advance(COUNTS / 2).await;
        assert_eq!(put_off(&mut pauses, due(3, "Pending")), until, "no longer");
        // They have taken it.
        assert_eq!(put_off(&mut pauses, due(3, "Programmed")), None);
        assert_eq!(pauses.after_a_proxys_word(), COUNTS);

        assert!(put_off(&mut pauses, due(4, "Pending")).is_some());
        tokio::time::advance(COUNTS).await;
        assert_eq!(
            put_off(&mut pauses, due(4, "Pending")),
            None,
            "they have not"
        );
    }
}

//! The trusted roots, from three sources: the file, the response of the controller's signature, and
//! the stream. Pure.
//!
//! The stream has precedence: a proxy starts with the other sources, and falls back to them. The
//! kubelet updates the file late. An outdated file must neither remove a root that the stream
//! contains nor restore one that it withdrew, so changes of the other sources are ignored while
//! there is a stream. A change while there is none is newer than the stream's last roots, and is
//! trusted in addition until the stream sends roots again. The same applies, once the stream has
//! ended, to a change so long after the stream's last roots that the kubelet cannot be late:
//! otherwise a root that was replaced during an open stream would never be learned.

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

/// The kubelet updates files of ConfigMaps within two minutes.
const SETTLED: Duration = Duration::from_secs(180);

/// A root's certificate.
pub type Root = CertificateDer<'static>;

/// The roots of each source, and whether they are trusted.
#[derive(Debug, Default)]
pub struct RootSources {
    file: NamedRoots,
    signed: NamedRoots,
    /// The roots of the stream: the one that signs, then the others.
    stream: Option<StreamRoots>,
    connected: bool,
}

#[derive(Debug)]
struct StreamRoots {
    roots: Vec<Root>,
    at: Instant,
}

#[derive(Debug, Default)]
struct NamedRoots {
    roots: Vec<Root>,
    /// Changed after the stream's last roots, while there was no stream.
    newer: bool,
    /// Changed long after the stream's last roots: newer, once the stream has ended.
    settled: bool,
    changed: Option<Instant>,
}

impl RootSources {
    /// Sets the roots of the file. Returns true if they changed.
    pub fn set_file_roots(&mut self, roots: Vec<Root>, now: Instant) -> bool {
        let changed = self.file.roots != roots;
        if changed {
            self.file = self.named(roots, now);
        }
        changed
    }

    /// Sets the roots that came with a certificate.
    pub fn set_signed_roots(&mut self, roots: Vec<Root>, now: Instant) {
        self.signed = self.named(roots, now);
    }

    /// Sets the roots of the stream.
    pub fn set_stream_roots(&mut self, roots: Vec<Root>, now: Instant) {
        self.stream = Some(StreamRoots { roots, at: now });
        for named in [&mut self.file, &mut self.signed] {
            named.newer = false;
            named.settled = false;
        }
    }

    /// Removes the roots of the stream: the controller is older than this proxy and sends none.
    pub fn clear_stream_roots(&mut self) {
        self.stream = None;
    }

    /// Sets whether there is a stream. Returns true if more roots are trusted than before.
    pub fn set_connected(&mut self, connected: bool) -> bool {
        self.connected = connected;
        let mut more = false;
        for named in [&mut self.file, &mut self.signed] {
            if !connected && std::mem::take(&mut named.settled) {
                named.newer = true;
                more = true;
            }
        }
        more
    }

    /// Returns the root that signs, according to the stream.
    pub fn signer(&self) -> Option<&Root> {
        self.stream.as_ref()?.roots.first()
    }

    /// Returns true if the newest source contains the root.
    pub fn holds(&self, root: &Root) -> bool {
        let mut others = [&self.file, &self.signed].into_iter();
        match &self.stream {
            None => others
                .max_by_key(|named| named.changed)
                .is_none_or(|newest| newest.roots.contains(root)),
            Some(stream) if !others.clone().any(|named| named.newer) => stream.roots.contains(root),
            Some(_) => others.any(|named| named.newer && named.roots.contains(root)),
        }
    }

    /// Returns the trusted roots, possibly with duplicates.
    pub fn in_force(&self) -> impl Iterator<Item = &Root> {
        let alone = self.stream.is_some();
        let counts = move |named: &&NamedRoots| named.newer || !alone;
        let others = [&self.file, &self.signed].into_iter().filter(counts);
        let stream = self.stream.iter().flat_map(|stream| &stream.roots);
        stream.chain(others.flat_map(|named| &named.roots))
    }

    fn named(&self, roots: Vec<Root>, now: Instant) -> NamedRoots {
        let long_after = |stream: &StreamRoots| now.duration_since(stream.at) >= SETTLED;
        NamedRoots {
            roots,
            newer: !self.connected,
            settled: self.connected && self.stream.as_ref().is_some_and(long_after),
            changed: Some(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(names: &[u8]) -> Vec<Root> {
        names
            .iter()
            .map(|name| Root::from(vec![*name; 3]))
            .collect()
    }

    fn in_force(sources: &RootSources) -> Vec<u8> {
        let mut names: Vec<u8> = sources.in_force().map(|root| root[0]).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    #[test]
    fn all_root_sources_are_trusted_before_first_stream_roots() {
        let mut sources = RootSources::default();
        assert!(sources.set_file_roots(roots(&[1]), Instant::now()));
        assert!(!sources.set_file_roots(roots(&[1]), Instant::now()));
        sources.set_signed_roots(roots(&[2]), Instant::now());
        sources.set_connected(true);
        assert!(sources.set_file_roots(roots(&[1, 3]), Instant::now()));
        assert_eq!(in_force(&sources), [1, 2, 3]);
        assert_eq!(sources.signer(), None);
    }

    #[test]
    fn file_roots_do_not_override_stream_roots() {
        let mut sources = RootSources::default();
        sources.set_file_roots(roots(&[1]), Instant::now());
        sources.set_signed_roots(roots(&[1]), Instant::now());
        sources.set_connected(true);
        sources.set_stream_roots(roots(&[1, 2]), Instant::now());
        assert_eq!(in_force(&sources), [1, 2], "both roots are trusted");
        sources.set_stream_roots(roots(&[2]), Instant::now());
        assert_eq!(
            in_force(&sources),
            [2],
            "the file's old root is not trusted"
        );
        sources.set_file_roots(roots(&[1, 2]), Instant::now());
        sources.set_signed_roots(roots(&[1, 2]), Instant::now());
        assert_eq!(in_force(&sources), [2], "stale sources are ignored");
        assert_eq!(sources.signer(), roots(&[2]).first());
    }

    #[test]
    fn roots_changed_while_disconnected_are_trusted_until_stream_sends_roots() {
        let mut sources = RootSources::default();
        sources.set_file_roots(roots(&[1]), Instant::now());
        sources.set_connected(true);
        sources.set_stream_roots(roots(&[1]), Instant::now());
        sources.set_connected(false);
        sources.set_file_roots(roots(&[1]), Instant::now());
        assert_eq!(in_force(&sources), [1]);
        sources.set_file_roots(roots(&[2]), Instant::now());
        assert_eq!(
            in_force(&sources),
            [1, 2],
            "a root replaced while disconnected is trusted"
        );
        sources.set_signed_roots(roots(&[3]), Instant::now());
        sources.set_connected(true);
        assert_eq!(in_force(&sources), [1, 2, 3]);
        sources.set_stream_roots(roots(&[3]), Instant::now());
        assert_eq!(in_force(&sources), [3]);
    }

    #[test]
    fn file_root_replaced_during_stream_is_trusted_after_disconnect() {
        let begun = Instant::now();
        let replaced_after = |pause: Duration| {
            let mut sources = RootSources::default();
            sources.set_file_roots(roots(&[1]), begun);
            sources.set_connected(true);
            sources.set_stream_roots(roots(&[1]), begun);
            sources.set_file_roots(roots(&[2]), begun + pause);
            assert_eq!(
                in_force(&sources),
                [1],
                "the stream's roots apply while it is open"
            );
            assert!(sources.holds(&roots(&[1])[0]));
            let more = sources.set_connected(false);
            (more, in_force(&sources), sources.holds(&roots(&[1])[0]))
        };
        assert_eq!(replaced_after(SETTLED), (true, vec![1, 2], false));
        assert_eq!(
            replaced_after(SETTLED / 2),
            (false, vec![1], true),
            "the file may be stale"
        );
    }

    #[test]
    fn newest_source_decides_whether_root_is_held() {
        let now = Instant::now();
        let (old, new) = (&roots(&[1])[0], &roots(&[2])[0]);
        let mut sources = RootSources::default();
        sources.set_file_roots(roots(&[1]), now);
        sources.set_signed_roots(roots(&[1]), now);
        assert!(sources.holds(old));
        sources.set_file_roots(roots(&[2]), now + SETTLED);
        assert!(!sources.holds(old), "the file changed after the signature");
        sources.set_connected(true);
        sources.set_stream_roots(roots(&[1, 2]), now + SETTLED);
        assert!(sources.holds(old) && sources.holds(new));
        sources.set_connected(false);
        sources.set_file_roots(roots(&[1]), now + 2 * SETTLED);
        assert!(!sources.holds(new));
        sources.set_signed_roots(roots(&[2]), now + 2 * SETTLED);
        assert!(
            sources.holds(new),
            "the signing response is newer than the file"
        );
    }

    #[test]
    fn cleared_stream_roots_fall_back_to_file_roots() {
        let mut sources = RootSources::default();
        sources.set_file_roots(roots(&[1]), Instant::now());
        sources.set_connected(true);
        sources.set_stream_roots(roots(&[2]), Instant::now());
        sources.clear_stream_roots();
        assert_eq!(in_force(&sources), [1]);
    }
}

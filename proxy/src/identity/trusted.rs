//! Which roots are in force, of those that the file, the controller's signature and its stream name. Pure.
//!
//! The stream's word goes before the others: they are what a proxy begins with, and what it falls back to. A file that
//! the kubelet brings late must neither take away a root that the stream named nor bring back one that it withdrew, so
//! what is read while there is a stream counts for nothing. What changes while there is none is newer than the stream's
//! word, and counts beside it until the stream speaks again.

use rustls_pki_types::CertificateDer;

/// A root's certificate.
pub type Root = CertificateDer<'static>;

/// What each source says, and whether it counts.
#[derive(Debug, Default)]
pub struct Sources {
    file: Named,
    signed: Named,
    /// The stream's word: the root that signs now, then the others.
    told: Option<Vec<Root>>,
    connected: bool,
}

#[derive(Debug, Default)]
struct Named {
    roots: Vec<Root>,
    /// It changed after the stream had spoken last, while there was none.
    newer: bool,
}

impl Sources {
    /// The file's content; says whether it differs from before.
    pub fn file(&mut self, roots: Vec<Root>) -> bool {
        let changed = self.file.roots != roots;
        if changed {
            self.file = self.named(roots);
        }
        changed
    }

    /// The roots that came with a certificate.
    pub fn signed(&mut self, roots: Vec<Root>) {
        self.signed = self.named(roots);
    }

    /// The stream's word.
    pub fn told(&mut self, roots: Vec<Root>) {
        self.told = Some(roots);
        self.file.newer = false;
        self.signed.newer = false;
    }

    /// The controller speaks of roots no longer: it is older than this proxy.
    pub fn untold(&mut self) {
        self.told = None;
    }

    pub fn connected(&mut self, connected: bool) {
        self.connected = connected;
    }

    /// The root under which the controller says that it signs.
    pub fn signer(&self) -> Option<&Root> {
        self.told.as_ref()?.first()
    }

    /// The roots in force, maybe some more than once.
    pub fn in_force(&self) -> impl Iterator<Item = &Root> {
        let alone = self.told.is_some();
        let counts = move |named: &&Named| named.newer || !alone;
        let others = [&self.file, &self.signed].into_iter().filter(counts);
        let told = self.told.iter().flatten();
        told.chain(others.flat_map(|named| &named.roots))
    }

    fn named(&self, roots: Vec<Root>) -> Named {
        Named {
            roots,
            newer: !self.connected,
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

    fn in_force(sources: &Sources) -> Vec<u8> {
        let mut names: Vec<u8> = sources.in_force().map(|root| root[0]).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    #[test]
    fn before_the_stream_has_spoken_everything_counts() {
        let mut sources = Sources::default();
        assert!(sources.file(roots(&[1])));
        assert!(!sources.file(roots(&[1])));
        sources.signed(roots(&[2]));
        sources.connected(true);
        assert!(sources.file(roots(&[1, 3])));
        assert_eq!(in_force(&sources), [1, 2, 3]);
        assert_eq!(sources.signer(), None);
    }

    #[test]
    fn a_late_file_neither_takes_away_nor_brings_back() {
        let mut sources = Sources::default();
        sources.file(roots(&[1]));
        sources.signed(roots(&[1]));
        sources.connected(true);
        sources.told(roots(&[1, 2]));
        assert_eq!(in_force(&sources), [1, 2], "the new one beside the old one");
        sources.told(roots(&[2]));
        assert_eq!(in_force(&sources), [2], "the file still has the old one");
        sources.file(roots(&[1, 2]));
        sources.signed(roots(&[1, 2]));
        assert_eq!(in_force(&sources), [2], "late");
        assert_eq!(sources.signer(), roots(&[2]).first());
    }

    #[test]
    fn what_changes_without_a_stream_counts_until_it_is_back_and_has_spoken() {
        let mut sources = Sources::default();
        sources.file(roots(&[1]));
        sources.connected(true);
        sources.told(roots(&[1]));
        sources.connected(false);
        sources.file(roots(&[1]));
        assert_eq!(in_force(&sources), [1]);
        sources.file(roots(&[2]));
        assert_eq!(
            in_force(&sources),
            [1, 2],
            "replaced while nobody could tell"
        );
        sources.signed(roots(&[3]));
        sources.connected(true);
        assert_eq!(in_force(&sources), [1, 2, 3]);
        sources.told(roots(&[3]));
        assert_eq!(in_force(&sources), [3]);
    }

    #[test]
    fn a_controller_that_does_not_speak_of_roots_leaves_it_to_the_others() {
        let mut sources = Sources::default();
        sources.file(roots(&[1]));
        sources.connected(true);
        sources.told(roots(&[2]));
        sources.untold();
        assert_eq!(in_force(&sources), [1]);
    }
}

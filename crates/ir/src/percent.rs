//! Shares in percent.

/// A share in percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Percent(pub(crate) u8);

impl Percent {
    /// Returns `None` above 100.
    pub fn new(percent: u32) -> Option<Self> {
        let percent = u8::try_from(percent).ok()?;
        (percent <= 100).then_some(Self(percent))
    }

    /// Returns the number, 0 to 100.
    pub fn get(self) -> u8 {
        self.0
    }

    /// Returns the share of a count, rounded down.
    pub fn of(self, count: usize) -> usize {
        count.saturating_mul(usize::from(self.0)) / 100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_at_most_100() {
        assert_eq!(Percent::new(101), None);
        assert_eq!(Percent::new(u32::MAX), None);
        assert_eq!(Percent::new(50).map(|half| half.of(3)), Some(1));
        assert_eq!(Percent::new(100).map(|all| all.of(3)), Some(3));
    }
}

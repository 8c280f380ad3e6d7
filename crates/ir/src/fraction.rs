//! Shares of requests.

use std::num::NonZeroU32;

/// A share: `numerator` of `denominator`, from none to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fraction {
    numerator: u32,
    denominator: NonZeroU32,
}

impl Fraction {
    /// All.
    pub const ALL: Self = Self {
        numerator: 1,
        denominator: NonZeroU32::MIN,
    };

    /// Returns `None` if the denominator is 0, or less than the numerator.
    pub fn new(numerator: u32, denominator: u32) -> Option<Self> {
        let denominator = NonZeroU32::new(denominator)?;
        (numerator <= denominator.get()).then_some(Self {
            numerator,
            denominator,
        })
    }

    /// At most the denominator.
    pub fn numerator(self) -> u32 {
        self.numerator
    }

    /// At least 1.
    pub fn denominator(self) -> NonZeroU32 {
        self.denominator
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fraction_is_from_none_to_all() {
        for (numerator, denominator, valid) in
            [(0, 1, true), (3, 3, true), (4, 3, false), (0, 0, false)]
        {
            let fraction = Fraction::new(numerator, denominator);
            assert_eq!(fraction.is_some(), valid, "{numerator} of {denominator}");
        }
    }
}

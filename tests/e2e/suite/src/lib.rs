//! The cluster tests of Weft.

//! What each replica says of the proxies connected to it: the one that writes statuses has a part
//! of them, and none knows by itself whether it has more than its share.
//!
//! Each replica keeps a Lease of its own; [`report`] is what it says there, [`exchange`] writes and
//! reads.

pub mod exchange;
pub mod report;

pub use exchange::Exchange;
pub use report::{Count, Others, Report, RouteCounts};

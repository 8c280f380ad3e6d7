//! Reports of the replicas on the proxies connected to them: the replica that writes statuses has
//! only some of the proxies, and no replica knows by itself whether it has more than its share.
//!
//! [`report`] is the content of a replica's Lease, [`tally`] counts its proxies, [`exchange`]
//! writes and reads the Leases.

pub mod exchange;
pub mod report;
pub(crate) mod tally;

pub use exchange::Exchange;
pub use report::{Count, Others, Report, RouteCounts};

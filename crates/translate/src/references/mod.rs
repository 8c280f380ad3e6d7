//! References from one object to another: what permits them, and what they lead to.

pub(crate) mod certificates;
pub(crate) mod grants;
mod pem;

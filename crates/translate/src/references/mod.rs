//! References between objects: what permits them, and the content of what they refer to.

pub(crate) mod certificates;
pub(crate) mod grants;
mod pem;

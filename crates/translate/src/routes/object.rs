//! What the objects of every kind of route have in common.

use std::fmt::Debug;

use crate::objects::{GrpcRoute, HttpRoute, Lenient, Meta, ParentRef, TcpRoute, TlsRoute};

/// The object that a route is translated from. One that is not even a map names no parent.
pub(crate) trait Source: Debug + Send + Sync {
    fn meta(&self) -> &Meta;
    fn parent_refs(&self) -> &[Lenient<ParentRef>];
    /// As they stand in the route.
    fn hostnames(&self) -> &[Lenient<String>];
}

macro_rules! source {
    ($kind:ty, $hostnames:expr) => {
        impl Source for $kind {
            fn meta(&self) -> &Meta {
                &self.metadata
            }

            fn parent_refs(&self) -> &[Lenient<ParentRef>] {
                self.spec.as_ref().map_or(&[], |spec| &spec.parent_refs)
            }

            fn hostnames(&self) -> &[Lenient<String>] {
                self.spec.as_ref().map_or(&[], $hostnames)
            }
        }
    };
}

source!(HttpRoute, |spec| &spec.hostnames);
source!(GrpcRoute, |spec| &spec.hostnames);
source!(TlsRoute, |spec| &spec.hostnames);
// UDPRoutes too.
source!(TcpRoute, |_| &[]);

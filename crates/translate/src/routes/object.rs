//! Access to what all kinds of route objects have in common.

use std::fmt::Debug;

use crate::objects::{GrpcRoute, HttpRoute, Lenient, Meta, ParentRef, TcpRoute, TlsRoute};

/// The object that a route is translated from. An object that is not even a map has no parents.
pub(crate) trait RouteObject: Debug + Send + Sync {
    fn meta(&self) -> &Meta;
    fn parent_refs(&self) -> &[Lenient<ParentRef>];
    /// As they are written in the route.
    fn hostnames(&self) -> &[Lenient<String>];
}

macro_rules! route_object {
    ($kind:ty, $hostnames:expr) => {
        impl RouteObject for $kind {
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

route_object!(HttpRoute, |spec| &spec.hostnames);
route_object!(GrpcRoute, |spec| &spec.hostnames);
route_object!(TlsRoute, |spec| &spec.hostnames);
// Also for UDPRoutes, which are the same type.
route_object!(TcpRoute, |_| &[]);

//! What this mesh supports of the Gateway API, as its XMesh says and the conformance suite reads.

/// Names of the module's `pkg/features`, v1.6.3, in ascending order. A name stands here only when every conformance test
/// that asks for it passes: `Mesh` with `HTTPRoute` is the core of MESH-HTTP, with `GRPCRoute` that of MESH-GRPC.
pub const SUPPORTED: &[&str] = &[
    "GRPCRoute",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_sorted_and_named_once() {
        assert!(SUPPORTED.is_sorted_by(|a, b| a < b));
    }
}

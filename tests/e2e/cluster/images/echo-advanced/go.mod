// The echo server and client that the suite's image echo-advanced is.
// Istio requires unpublished versions of the three modules below; each is pinned to a published one.
module weft.dev/cluster/echo-advanced

go 1.26.0

require istio.io/istio v0.0.0-20260827124520-eed52ebb66ad

replace (
	github.com/envoyproxy/go-control-plane/envoy => github.com/envoyproxy/go-control-plane/envoy v1.37.0
	istio.io/api => istio.io/api v1.31.1
	istio.io/client-go => istio.io/client-go v1.31.1
)

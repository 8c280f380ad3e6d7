// Package versions lists every version that the cluster consists of, in one place.
//
// The modules in programs/, kind/ and ../conformance/ repeat some of them in their go.mod files,
// because Go reads them there; a test in this package fails if they differ.
package versions

const (
	Kubernetes = "1.36.3"
	CoreDNS    = "v1.12.2"
	MetalLB    = "v0.15.2"
	GatewayAPI = "v1.7.0"
	// GatewayAPIPrevious is the other version that Weft is tested with.
	GatewayAPIPrevious = "v1.6.3"

	Helm = "v4.3.1"
	Kind = "v0.33.0"
	// KindNodeImage is the node image that belongs to this version of kind.
	KindNodeImage = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
)

// Image names.
const (
	PauseImage   = "registry.k8s.io/pause:3.10"
	CoreDNSImage = "registry.k8s.io/coredns/coredns:" + CoreDNS
	MetalLBImage = "quay.io/metallb/controller:" + MetalLB
	// AuthorizerImage is the external authorization server of the cluster tests.
	AuthorizerImage = "weft.dev/authorizer:test"
)

// EchoImages are the names of the servers echo-basic and echo-advanced in the manifests of a
// conformance suite. The cluster tests use those of GatewayAPI.
type EchoImages struct {
	Basic    []string
	Advanced string
}

// EchoImagesOf returns the names that the suite of a Gateway API version uses. Before v1.7.0 they
// were named differently.
func EchoImagesOf(gatewayAPI string) EchoImages {
	const registry = "registry.k8s.io/gateway-api/"
	if gatewayAPI == GatewayAPIPrevious {
		basic := registry + "echo-basic:"
		return EchoImages{
			Basic:    []string{basic + "v1.5.1", basic + "v1.6.0-dev.2", basic + "v1.6.0-dev.3"},
			Advanced: registry + "echo-advanced:v1.5.1",
		}
	}
	basic := registry + "conformance/echo-basic:"
	return EchoImages{
		Basic:    []string{basic + "v0.1.0", basic + "v0.2.0"},
		Advanced: registry + "conformance/echo-advanced:v0.1.0",
	}
}

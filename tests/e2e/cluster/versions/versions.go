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
	Helm       = "v4.3.1"
	Kind       = "v0.33.0"
	// KindNodeImage is the node image that belongs to this version of kind.
	KindNodeImage = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
)

// Image names. The tags of the conformance suite's images are those in its manifests.
const (
	PauseImage        = "registry.k8s.io/pause:3.10"
	CoreDNSImage      = "registry.k8s.io/coredns/coredns:" + CoreDNS
	MetalLBImage      = "quay.io/metallb/controller:" + MetalLB
	EchoAdvancedImage = "registry.k8s.io/gateway-api/conformance/echo-advanced:v0.1.0"
	echoBasic         = "registry.k8s.io/gateway-api/conformance/echo-basic:"
)

// EchoBasicImages are the names of echo-basic in the suite's manifests.
func EchoBasicImages() []string {
	return []string{echoBasic + "v0.1.0", echoBasic + "v0.2.0"}
}

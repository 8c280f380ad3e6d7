// Package manifests holds what is deployed into every cluster of this project.
package manifests

import (
	_ "embed"
	"fmt"
	"net/netip"
	"strings"

	"weft.dev/cluster/versions"
)

//go:embed coredns.yaml
var coreDNS string

//go:embed metallb.yaml
var metalLB string

//go:embed pool.yaml
var pool string

// CoreDNS is the cluster's name server at a ClusterIP.
func CoreDNS(address netip.Addr) ([]byte, error) {
	return fill(coreDNS, "COREDNS_VERSION", versions.CoreDNS, "DNS_ADDRESS", address.String())
}

// MetalLB is the controller that gives out LoadBalancer addresses.
func MetalLB() ([]byte, error) {
	return fill(metalLB, "METALLB_VERSION", versions.MetalLB)
}

// Pool is the range that MetalLB gives out. Its kind must be known to the cluster already.
func Pool(addresses netip.Prefix) ([]byte, error) {
	return fill(pool, "POOL", addresses.String())
}

// fill replaces ${NAME} by its value and refuses a text in which one is left.
func fill(text string, namesAndValues ...string) ([]byte, error) {
	for i := 0; i < len(namesAndValues); i += 2 {
		text = strings.ReplaceAll(text, "${"+namesAndValues[i]+"}", namesAndValues[i+1])
	}
	if _, after, ok := strings.Cut(text, "${"); ok {
		name, _, _ := strings.Cut(after, "}")
		return nil, fmt.Errorf("the manifest names ${%s}, which has no value", name)
	}
	return []byte(text), nil
}

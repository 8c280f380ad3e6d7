// Package manifests holds what is deployed into every cluster of this project.
package manifests

import (
	_ "embed"
	"fmt"
	"net/netip"
	"strings"

	"weft.dev/cluster/plan"
	"weft.dev/cluster/versions"
)

//go:embed coredns.yaml
var coreDNS string

//go:embed metallb.yaml
var metalLB string

//go:embed pool.yaml
var pool string

// CoreDNS is the cluster's name server at its ClusterIPs, of which the first is of the cluster's primary family.
func CoreDNS(addresses []netip.Addr) ([]byte, error) {
	return fill(coreDNS, "COREDNS_VERSION", versions.CoreDNS, "DNS_ADDRESS", addresses[0].String(), "DNS_ADDRESSES", quoted(addresses))
}

// MetalLB is the controller that gives out LoadBalancer addresses.
func MetalLB() ([]byte, error) {
	return fill(metalLB, "METALLB_VERSION", versions.MetalLB)
}

// Pool is the ranges that MetalLB gives out. Its kind must be known to the cluster already.
func Pool(ranges []netip.Prefix) ([]byte, error) {
	return fill(pool, "POOL", quoted(ranges))
}

// quoted lists addresses or ranges for YAML, in which one of IPv6 without quotes may be taken for a mapping.
func quoted[T fmt.Stringer](all []T) string {
	return `"` + strings.ReplaceAll(plan.List(all), ",", `", "`) + `"`
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

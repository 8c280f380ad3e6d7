// Package manifests contains the manifests that are deployed into every test cluster.
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

// CoreDNS returns the cluster's DNS server with its ClusterIPs, that of the primary family first.
func CoreDNS(addresses []netip.Addr) ([]byte, error) {
	return fill(coreDNS, "COREDNS_VERSION", versions.CoreDNS, "DNS_ADDRESS", addresses[0].String(), "DNS_ADDRESSES", quoted(addresses))
}

// MetalLB returns the controller that assigns LoadBalancer addresses.
func MetalLB() ([]byte, error) {
	return fill(metalLB, "METALLB_VERSION", versions.MetalLB)
}

// Pool returns the address ranges that MetalLB assigns from. Its CRD must be installed.
func Pool(ranges []netip.Prefix) ([]byte, error) {
	return fill(pool, "POOL", quoted(ranges))
}

// quoted joins addresses or ranges for YAML; an unquoted IPv6 address may be parsed as a mapping.
func quoted[T fmt.Stringer](all []T) string {
	return `"` + strings.ReplaceAll(plan.List(all), ",", `", "`) + `"`
}

// fill replaces ${NAME} by its value; it is an error if one has no value.
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

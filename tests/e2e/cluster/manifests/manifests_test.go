package manifests

import (
	"net/netip"
	"strings"
	"testing"
)

func TestManifestsAreFilled(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("10.2.0.10"), netip.MustParseAddr("fd00::a")}
	dns, err := CoreDNS(addresses)
	if err != nil || !strings.Contains(string(dns), "clusterIP: \"10.2.0.10\"\n") {
		t.Errorf("%v in\n%s", err, dns)
	}
	if !strings.Contains(string(dns), `clusterIPs: ["10.2.0.10", "fd00::a"]`) {
		t.Errorf("not all addresses in\n%s", dns)
	}
	if _, err := MetalLB(); err != nil {
		t.Error(err)
	}
	pool, err := Pool([]netip.Prefix{netip.MustParsePrefix("10.3.0.0/24"), netip.MustParsePrefix("fd00::/120")})
	if err != nil || !strings.Contains(string(pool), `["10.3.0.0/24", "fd00::/120"]`) {
		t.Errorf("%v in\n%s", err, pool)
	}
}

func TestFillRejectsUnknownNames(t *testing.T) {
	if _, err := fill("a: ${B}", "A", "1"); err == nil || !strings.Contains(err.Error(), "${B}") {
		t.Errorf("got %v", err)
	}
}

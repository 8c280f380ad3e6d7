package manifests

import (
	"net/netip"
	"strings"
	"testing"
)

func TestManifestsAreFilled(t *testing.T) {
	dns, err := CoreDNS(netip.MustParseAddr("10.2.0.10"))
	if err != nil || !strings.Contains(string(dns), "clusterIP: 10.2.0.10\n") {
		t.Errorf("%v in\n%s", err, dns)
	}
	if _, err := MetalLB(); err != nil {
		t.Error(err)
	}
	pool, err := Pool(netip.MustParsePrefix("10.3.0.0/24"))
	if err != nil || !strings.Contains(string(pool), `["10.3.0.0/24"]`) {
		t.Errorf("%v in\n%s", err, pool)
	}
}

func TestFillRefusesUnknownNames(t *testing.T) {
	if _, err := fill("a: ${B}", "A", "1"); err == nil || !strings.Contains(err.Error(), "${B}") {
		t.Errorf("got %v", err)
	}
}

package plan

import (
	"net/netip"
	"testing"
)

func TestIDsDifferByCheckout(t *testing.T) {
	if ID("/a/weft") != ID("/a/weft") {
		t.Error("the id of one checkout is not stable")
	}
	if ID("/a/weft") == ID("/b/weft") {
		t.Error("two checkouts share an id")
	}
}

func TestRangesAreDisjointAndInsideTheBlock(t *testing.T) {
	for block := range Blocks {
		p := Plan{ID: "abcdef", Block: block}
		ranges := []netip.Prefix{p.Nodes(), p.Pods(), p.Services(), p.LoadBalancers()}
		for i, a := range ranges {
			if !p.All().Contains(a.Addr()) || a != a.Masked() {
				t.Errorf("block %d: %s is not a range of %s", block, a, p.All())
			}
			for _, b := range ranges[i+1:] {
				if a.Overlaps(b) {
					t.Errorf("block %d: %s overlaps %s", block, a, b)
				}
			}
		}
		if other := (Plan{Block: (block + 1) % Blocks}); other.All().Overlaps(p.All()) {
			t.Errorf("block %d overlaps the next", block)
		}
	}
}

func TestAddressesLieInTheirRanges(t *testing.T) {
	p := Plan{ID: "abcdef", Block: 3}
	for n := 1; n <= MaxNodes; n++ {
		if !p.Nodes().Contains(p.Node(n)) || !p.Pods().Overlaps(p.NodePods(n)) {
			t.Errorf("node %d lies outside its range", n)
		}
		if p.Node(n) == p.Gateway() || p.Node(n) == p.Host() {
			t.Errorf("node %d takes an address of the network", n)
		}
	}
	if !p.Services().Contains(p.DNS()) || !p.Services().Contains(p.KubernetesService()) {
		t.Error("a Service's address lies outside the Service range")
	}
	if len(p.HostLink()) > 15 {
		t.Errorf("link name %q is longer than the kernel allows", p.HostLink())
	}
}

func TestChooseBlockAvoidsRoutesInUse(t *testing.T) {
	id := ID("/a/weft")
	free, err := ChooseBlock(id, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("192.0.2.0/24")})
	if err != nil || free.Block != FirstBlock(id) {
		t.Fatalf("got %+v, %v; want the id's own block", free, err)
	}
	next, err := ChooseBlock(id, []netip.Prefix{free.NodePods(1)})
	if err != nil || next.Block == free.Block {
		t.Fatalf("got %+v, %v; want another block than the one in use", next, err)
	}
	if _, err := ChooseBlock(id, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); err == nil {
		t.Error("no error though every block is in use")
	}
}

package plan

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
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
		p := Plan{ID: "abcdef", Block: block, Family: Dual}
		next := Plan{ID: "abcdef", Block: (block + 1) % Blocks, Family: Dual}
		for family := range p.All() {
			all := p.All()[family]
			ranges := []netip.Prefix{
				p.Nodes()[family], p.Pods()[family], p.Services()[family], p.LoadBalancers()[family],
			}
			for i, a := range ranges {
				if !all.Contains(a.Addr()) || a.Bits() < all.Bits() || a != a.Masked() {
					t.Errorf("block %d: %s is not a range of %s", block, a, all)
				}
				for _, b := range ranges[i+1:] {
					if a.Overlaps(b) {
						t.Errorf("block %d: %s overlaps %s", block, a, b)
					}
				}
			}
			if next.All()[family].Overlaps(all) {
				t.Errorf("block %d overlaps the next", block)
			}
		}
	}
}

func TestAddressesLieInTheirRanges(t *testing.T) {
	p := Plan{ID: "abcdef", Block: 3, Family: Dual}
	for family := range p.All() {
		for n := 1; n <= MaxNodes; n++ {
			node, pods := p.Node(n)[family], p.NodePods(n)[family]
			if !p.Nodes()[family].Contains(node) || !p.Pods()[family].Contains(pods.Addr()) || pods != pods.Masked() {
				t.Errorf("node %d lies outside its range: %s, %s", n, node, pods)
			}
			if node == p.Gateway()[family] || node == p.Host()[family] {
				t.Errorf("node %d takes an address of the network", n)
			}
			if pods.Overlaps(p.NodePods(n + 1)[family]) {
				t.Errorf("node %d shares its pods' addresses", n)
			}
		}
		if !p.Services()[family].Contains(p.DNS()[family]) {
			t.Error("a Service's address lies outside the Service range")
		}
	}
	if !p.Services()[0].Contains(p.KubernetesService()) {
		t.Error("the API server's Service is not of the primary family")
	}
	if len(p.HostLink()) > 15 {
		t.Errorf("link name %q is longer than the kernel allows", p.HostLink())
	}
}

func TestDualFamilyListsIPv4First(t *testing.T) {
	want := map[Family][]bool{"": {false}, IPv4: {false}, Dual: {false, true}, IPv6: {true}}
	for family, six := range want {
		p := Plan{ID: "abcdef", Block: 3, Family: family}
		for what, all := range map[string][]netip.Prefix{
			"block": p.All(), "nodes": p.Nodes(), "pods": p.Pods(), "node's pods": p.NodePods(2),
			"Services": p.Services(), "LoadBalancers": p.LoadBalancers(),
		} {
			got := make([]bool, len(all))
			for i, one := range all {
				got[i] = one.Addr().Is6()
			}
			if !slices.Equal(got, six) {
				t.Errorf("%q: %s are %v", family, what, all)
			}
		}
		for what, all := range map[string][]netip.Addr{
			"node": p.Node(2), "gateway": p.Gateway(), "host": p.Host(), "DNS": p.DNS(),
		} {
			got := make([]bool, len(all))
			for i, one := range all {
				got[i] = one.Is6()
			}
			if !slices.Equal(got, six) {
				t.Errorf("%q: %s is %v", family, what, all)
			}
		}
	}
	local := netip.MustParsePrefix("fd00::/8")
	if all := (Plan{ID: "abcdef", Family: IPv6}).All()[0]; !local.Contains(all.Addr()) || all.Bits() != 48 {
		t.Errorf("%s is no /48 of unique local addresses", all)
	}
}

func TestServerIsAURL(t *testing.T) {
	for family, want := range map[Family]string{IPv4: "10.140.0.1:6443", Dual: "10.140.0.1:6443", IPv6: "]:6443"} {
		server, err := url.Parse(Plan{ID: "abcdef", Block: 3, Family: family}.Server())
		if err != nil || server.Scheme != "https" || !strings.HasSuffix(server.Host, want) {
			t.Errorf("%s: %v, %v", family, server, err)
		}
	}
}

func TestParseFamily(t *testing.T) {
	for _, family := range []Family{IPv4, Dual, IPv6} {
		if got, err := ParseFamily(string(family)); err != nil || got != family {
			t.Errorf("%s: %q, %v", family, got, err)
		}
	}
	for _, text := range []string{"", "IPv6", "ipv5", "ipv4,ipv6"} {
		if _, err := ParseFamily(text); err == nil || !strings.Contains(err.Error(), "ipv4, dual or ipv6") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestChooseBlockAvoidsRoutesInUse(t *testing.T) {
	id := ID("/a/weft")
	free, err := ChooseBlock(id, IPv4, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("192.0.2.0/24")})
	if err != nil || free.Block != FirstBlock(id) {
		t.Fatalf("got %+v, %v; want the id's own block", free, err)
	}
	next, err := ChooseBlock(id, IPv4, free.NodePods(1))
	if err != nil || next.Block == free.Block {
		t.Fatalf("got %+v, %v; want another block than the one in use", next, err)
	}
	if _, err := ChooseBlock(id, IPv4, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); err == nil {
		t.Error("no error though every block is in use")
	}
}

func TestChooseBlockAvoidsRoutesOfEachFamily(t *testing.T) {
	id := ID("/a/weft")
	for _, family := range []Family{Dual, IPv6} {
		first, err := ChooseBlock(id, family, nil)
		if err != nil || first.Family != family {
			t.Fatalf("got %+v, %v; want a block of %s", first, err, family)
		}
		pods := first.NodePods(1)
		next, err := ChooseBlock(id, family, pods[len(pods)-1:])
		if err != nil || next.Block == first.Block {
			t.Errorf("%s: got %+v, %v; want another block than the one in use", family, next, err)
		}
	}
	// Routes of a family that the cluster does not have do not matter.
	if _, err := ChooseBlock(id, IPv6, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}); err != nil {
		t.Error(err)
	}
}

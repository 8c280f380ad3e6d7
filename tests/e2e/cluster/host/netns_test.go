package host

import (
	"net/netip"
	"slices"
	"testing"

	"weft.dev/cluster/plan"
)

func TestParseRoutes(t *testing.T) {
	got := parseRoutes(`default via 192.0.2.1 dev eth0 
192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.2 
10.136.0.7 dev tun0
local 127.0.0.0/8 dev lo table local proto kernel scope host src 127.0.0.1 
unreachable 10.64.0.0/16

`)
	want := []netip.Prefix{
		netip.MustParsePrefix("192.0.2.0/24"),
		netip.MustParsePrefix("10.136.0.7/32"),
		netip.MustParsePrefix("127.0.0.0/8"),
		netip.MustParsePrefix("10.64.0.0/16"),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLinksAndRoutesOfEachFamily(t *testing.T) {
	dual := plan.Plan{ID: "abcdef", Block: 2, Family: plan.Dual}
	six := dual.Nodes()[1].Addr()
	got := addAddresses(dual, dual.Node(2), "eth0")
	want := []string{
		"address add 10.136.0.2/24 dev eth0",
		"address add " + six.String() + "2/64 dev eth0 nodad",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	got = routes(dual.NodePods(1), dual.Node(1), "host")
	want = []string{
		"route add 10.137.1.0/24 via 10.136.0.1 dev host",
		"route add " + dual.NodePods(1)[1].String() + " via " + six.String() + "1 dev host",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestIPv6ForwardingIsSetForIPv6FamiliesOnly(t *testing.T) {
	for family, want := range map[plan.Family]bool{plan.IPv4: false, plan.Dual: true, plan.IPv6: true} {
		for _, name := range []string{"net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-ip6tables"} {
			if slices.Contains(nodeSysctls(family), sysctl{name, "1"}) != want {
				t.Errorf("%s: %s", family, name)
			}
		}
	}
}

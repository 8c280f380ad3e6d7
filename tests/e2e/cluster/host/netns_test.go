package host

import (
	"net/netip"
	"slices"
	"testing"
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

package plan

import (
	"fmt"
	"net/netip"
	"strings"
)

// Family is the IP families of a cluster's nodes, pods and Services.
type Family string

const (
	IPv4 Family = "ipv4"
	// Dual is both families, IPv4 first.
	Dual Family = "dual"
	IPv6 Family = "ipv6"
)

// ParseFamily parses the value of FAMILY or --family.
func ParseFamily(text string) (Family, error) {
	switch family := Family(text); family {
	case IPv4, Dual, IPv6:
		return family, nil
	}
	return "", fmt.Errorf("the address family is %q; it may be ipv4, dual or ipv6", text)
}

// HasIPv6 tells whether the cluster has IPv6 addresses; the zero value has none.
func (f Family) HasIPv6() bool { return f == Dual || f == IPv6 }

// choose returns the values for the families of the cluster, the primary one first.
func choose[T any](f Family, four, six T) []T {
	switch f {
	case Dual:
		return []T{four, six}
	case IPv6:
		return []T{six}
	}
	return []T{four}
}

// List joins addresses or ranges with commas, as in flags of Kubernetes programs.
func List[T fmt.Stringer](all []T) string {
	texts := make([]string, len(all))
	for i, one := range all {
		texts[i] = one.String()
	}
	return strings.Join(texts, ",")
}

// prefix4 returns an IPv4 prefix.
func prefix4(bits int, octets ...byte) netip.Prefix {
	var address [4]byte
	copy(address[:], octets)
	return netip.PrefixFrom(netip.AddrFrom4(address), bits)
}

// address6 returns an address of the cluster's /48 by subnet and host.
func (p Plan) address6(subnet, host uint16) netip.Addr {
	address := p.all6().Addr().As16()
	address[6], address[7] = byte(subnet>>8), byte(subnet)
	address[14], address[15] = byte(host>>8), byte(host)
	return netip.AddrFrom16(address)
}

// prefix6 returns a prefix in the cluster's /48.
func (p Plan) prefix6(bits int, subnet uint16) netip.Prefix {
	return netip.PrefixFrom(p.address6(subnet, 0), bits)
}

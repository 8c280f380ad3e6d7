// Package plan computes the names and addresses of a cluster. It is pure: no I/O.
//
// Each checkout of the repository has its own ID, and each running cluster its own block of
// addresses, so that clusters of several checkouts can run side by side, and the remains of one do
// not block another.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
)

const (
	// Blocks is the number of clusters that can run side by side: each takes a /14 of 10.128.0.0/9,
	// a /48 of fd00::/8, or both.
	Blocks = 32
	// MaxNodes limits the nodes of a cluster; the address ranges would allow more.
	MaxNodes = 16

	gatewayHost = 253
	hostHost    = 254
)

// ID returns a short name derived from the path of the checkout at root.
func ID(root string) string {
	sum := sha256.Sum256([]byte(root))
	return hex.EncodeToString(sum[:3])
}

// FirstBlock returns the block of addresses that is tried first for the checkout with this ID.
func FirstBlock(id string) int {
	sum := sha256.Sum256([]byte(id))
	return int(sum[0]) % Blocks
}

// Plan is the names and addresses of a cluster. Methods that return addresses or ranges return one
// per IP family of the cluster, the primary one first.
type Plan struct {
	ID    string
	Block int
	// Family may be empty, for IPv4.
	Family Family
}

// The subnets of a cluster's /48. Node N's pods have podSubnet6 + N.
const (
	nodeSubnet6         = 0
	podSubnet6          = 0x100
	serviceSubnet6      = 0x200
	loadBalancerSubnet6 = 0x300
)

func (p Plan) octet(offset int) byte { return byte(128 + 4*p.Block + offset) }

// all4 returns the IPv4 block.
func (p Plan) all4() netip.Prefix { return prefix4(14, 10, p.octet(0)) }

// all6 returns a /48 of unique local addresses. RFC 4193 requires a random number in it, so that
// joined networks rarely collide; here it is derived from the checkout and the block.
func (p Plan) all6() netip.Prefix {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", p.ID, p.Block))
	address := [16]byte{0: 0xfd}
	copy(address[1:6], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(address), 48)
}

// All returns the prefixes that contain every address of the cluster.
func (p Plan) All() []netip.Prefix { return choose(p.Family, p.all4(), p.all6()) }

// Nodes returns the prefixes between the nodes and the host.
func (p Plan) Nodes() []netip.Prefix {
	return choose(p.Family, prefix4(24, 10, p.octet(0)), p.prefix6(64, nodeSubnet6))
}

// Pods returns the prefixes of all pods.
func (p Plan) Pods() []netip.Prefix {
	return choose(p.Family, prefix4(16, 10, p.octet(1)), p.prefix6(56, podSubnet6))
}

// Services returns the ranges of ClusterIPs. Kubernetes allows at most a /108 of IPv6.
func (p Plan) Services() []netip.Prefix {
	return choose(p.Family, prefix4(16, 10, p.octet(2)), p.prefix6(112, serviceSubnet6))
}

// LoadBalancers returns the ranges of LoadBalancer addresses.
func (p Plan) LoadBalancers() []netip.Prefix {
	return choose(p.Family, prefix4(24, 10, p.octet(3)), p.prefix6(120, loadBalancerSubnet6))
}

// Node returns the addresses of node number n, counted from 1. Node 1 runs the control plane.
func (p Plan) Node(n int) []netip.Addr { return p.inNodes(uint16(n)) }

// NodePods returns the pod ranges of node number n.
func (p Plan) NodePods(n int) []netip.Prefix {
	return choose(p.Family, prefix4(24, 10, p.octet(1), byte(n)), p.prefix6(64, podSubnet6+uint16(n)))
}

// Gateway returns the nodes' default gateway, which rejects packets to addresses outside the
// cluster.
func (p Plan) Gateway() []netip.Addr { return p.inNodes(gatewayHost) }

// Host returns the host's addresses in the nodes' network.
func (p Plan) Host() []netip.Addr { return p.inNodes(hostHost) }

func (p Plan) inNodes(host uint16) []netip.Addr {
	return choose(p.Family, netip.AddrFrom4([4]byte{10, p.octet(0), 0, byte(host)}), p.address6(nodeSubnet6, host))
}

// KubernetesService returns the ClusterIP of the API server: the first of the primary family's
// range.
func (p Plan) KubernetesService() netip.Addr { return p.inServices(1)[0] }

// DNS returns the ClusterIPs of the cluster's DNS server.
func (p Plan) DNS() []netip.Addr { return p.inServices(10) }

func (p Plan) inServices(host uint16) []netip.Addr {
	return choose(p.Family, netip.AddrFrom4([4]byte{10, p.octet(2), 0, byte(host)}), p.address6(serviceSubnet6, host))
}

// Server returns the API server's URL.
func (p Plan) Server() string {
	return "https://" + netip.AddrPortFrom(p.Node(1)[0], 6443).String()
}

// Fabric returns the name of the network namespace with the bridge between the nodes.
func (p Plan) Fabric() string { return Prefix(p.ID) + "fabric" }

// NodeSpace returns the name of the network namespace and cgroup of node number n.
func (p Plan) NodeSpace(n int) string { return fmt.Sprintf("%sn%d", Prefix(p.ID), n) }

// HostLink returns the name of the host's link to the fabric; the kernel allows 15 characters.
func (p Plan) HostLink() string { return "weft" + p.ID }

// NodeName returns the Kubernetes name of node number n.
func NodeName(n int) string { return fmt.Sprintf("node%d", n) }

// Prefix returns the start of the names of all namespaces, cgroups and CNI networks of the cluster
// with this ID.
func Prefix(id string) string { return "weft-" + id + "-" }

// ChooseBlock returns the first block, starting with the ID's own, that overlaps none of the
// prefixes in use.
func ChooseBlock(id string, family Family, inUse []netip.Prefix) (Plan, error) {
	first := FirstBlock(id)
	for i := range Blocks {
		p := Plan{ID: id, Block: (first + i) % Blocks, Family: family}
		if !slices.ContainsFunc(p.All(), func(all netip.Prefix) bool { return overlapsAny(all, inUse) }) {
			return p, nil
		}
	}
	return Plan{}, fmt.Errorf("no free address block: this host has routes into all %d blocks of 10.128.0.0/9; `ip route` lists them", Blocks)
}

func overlapsAny(candidate netip.Prefix, inUse []netip.Prefix) bool {
	return slices.ContainsFunc(inUse, func(used netip.Prefix) bool { return used.Bits() > 0 && used.Overlaps(candidate) })
}

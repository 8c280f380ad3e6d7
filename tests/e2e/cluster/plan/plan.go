// Package plan decides the names and addresses of a cluster. It is pure: it looks at nothing and changes nothing.
//
// Each checkout of the repository gets its own id, and each running cluster its own block of addresses, so that clusters
// of several checkouts live side by side, and a dead one does not hinder a live one.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
)

const (
	// Blocks is how many clusters can live side by side: each takes a /14 of 10.128.0.0/9, a /48 of fd00::/8, or both.
	Blocks = 32
	// MaxNodes bounds the nodes of one cluster; the addresses would suffice for more.
	MaxNodes = 16

	gatewayHost = 253
	hostHost    = 254
)

// ID is a short name that is the same for every cluster of the checkout at root, and hardly that of another.
func ID(root string) string {
	sum := sha256.Sum256([]byte(root))
	return hex.EncodeToString(sum[:3])
}

// FirstBlock is the block of addresses to try first for the checkout with this id.
func FirstBlock(id string) int {
	sum := sha256.Sum256([]byte(id))
	return int(sum[0]) % Blocks
}

// Plan is what a cluster is called and where its parts are found. Of addresses and ranges there is one for each family that
// the cluster has, the primary family's first.
type Plan struct {
	ID    string
	Block int
	// Family is IPv4 when it is empty.
	Family Family
}

// The subnets of a cluster's /48. That of node N's pods is podSubnet6 + N.
const (
	nodeSubnet6         = 0
	podSubnet6          = 0x100
	serviceSubnet6      = 0x200
	loadBalancerSubnet6 = 0x300
)

func (p Plan) octet(offset int) byte { return byte(128 + 4*p.Block + offset) }

// all4 is the block of IPv4.
func (p Plan) all4() netip.Prefix { return prefix4(14, 10, p.octet(0)) }

// all6 is a /48 of unique local addresses. RFC 4193 asks for a random number in it, so that two networks that meet hardly
// share one; here it follows from the checkout and the block.
func (p Plan) all6() netip.Prefix {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", p.ID, p.Block))
	address := [16]byte{0: 0xfd}
	copy(address[1:6], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(address), 48)
}

// All covers every address of the cluster.
func (p Plan) All() []netip.Prefix { return choose(p.Family, p.all4(), p.all6()) }

// Nodes is the network between the nodes and the host.
func (p Plan) Nodes() []netip.Prefix {
	return choose(p.Family, prefix4(24, 10, p.octet(0)), p.prefix6(64, nodeSubnet6))
}

// Pods covers the pods of every node.
func (p Plan) Pods() []netip.Prefix {
	return choose(p.Family, prefix4(16, 10, p.octet(1)), p.prefix6(56, podSubnet6))
}

// Services is the range of ClusterIPs. Kubernetes takes no more than a /108 of IPv6.
func (p Plan) Services() []netip.Prefix {
	return choose(p.Family, prefix4(16, 10, p.octet(2)), p.prefix6(112, serviceSubnet6))
}

// LoadBalancers is the range of LoadBalancer addresses.
func (p Plan) LoadBalancers() []netip.Prefix {
	return choose(p.Family, prefix4(24, 10, p.octet(3)), p.prefix6(120, loadBalancerSubnet6))
}

// Node is the addresses of node number n, counted from 1. Node 1 runs the control plane.
func (p Plan) Node(n int) []netip.Addr { return p.inNodes(uint16(n)) }

// NodePods is the range of the pods of node number n.
func (p Plan) NodePods(n int) []netip.Prefix {
	return choose(p.Family, prefix4(24, 10, p.octet(1), byte(n)), p.prefix6(64, podSubnet6+uint16(n)))
}

// Gateway is the nodes' default gateway; it answers "unreachable" for what is not of the cluster.
func (p Plan) Gateway() []netip.Addr { return p.inNodes(gatewayHost) }

// Host is the host's own address in the nodes' network.
func (p Plan) Host() []netip.Addr { return p.inNodes(hostHost) }

func (p Plan) inNodes(host uint16) []netip.Addr {
	return choose(p.Family, netip.AddrFrom4([4]byte{10, p.octet(0), 0, byte(host)}), p.address6(nodeSubnet6, host))
}

// KubernetesService is the ClusterIP of the API server: the first of its primary family's range.
func (p Plan) KubernetesService() netip.Addr { return p.inServices(1)[0] }

// DNS is the ClusterIPs of the cluster's name server.
func (p Plan) DNS() []netip.Addr { return p.inServices(10) }

func (p Plan) inServices(host uint16) []netip.Addr {
	return choose(p.Family, netip.AddrFrom4([4]byte{10, p.octet(2), 0, byte(host)}), p.address6(serviceSubnet6, host))
}

// Server is the API server's URL.
func (p Plan) Server() string {
	return "https://" + netip.AddrPortFrom(p.Node(1)[0], 6443).String()
}

// Fabric is the network namespace that holds the bridge between the nodes.
func (p Plan) Fabric() string { return Prefix(p.ID) + "fabric" }

// NodeSpace names the network namespace and the cgroup of node number n.
func (p Plan) NodeSpace(n int) string { return fmt.Sprintf("%sn%d", Prefix(p.ID), n) }

// HostLink is the link on the host that leads to the fabric; at most 15 characters, as the kernel demands.
func (p Plan) HostLink() string { return "weft" + p.ID }

// NodeName is the Kubernetes name of node number n.
func NodeName(n int) string { return fmt.Sprintf("node%d", n) }

// Prefix begins every name of a namespace, cgroup or CNI network of the cluster with this id.
func Prefix(id string) string { return "weft-" + id + "-" }

// ChooseBlock picks the first block, beginning with the id's own, that overlaps none of the prefixes in use.
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

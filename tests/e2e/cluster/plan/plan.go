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
)

const (
	// Blocks is how many clusters can live side by side: each takes a /14 of 10.128.0.0/9.
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

// Plan is what a cluster is called and where its parts are found.
type Plan struct {
	ID    string
	Block int
}

func (p Plan) octet(offset int) byte { return byte(128 + 4*p.Block + offset) }

func prefix(bits int, octets ...byte) netip.Prefix {
	var address [4]byte
	copy(address[:], octets)
	return netip.PrefixFrom(netip.AddrFrom4(address), bits)
}

// All covers every address of the cluster.
func (p Plan) All() netip.Prefix { return prefix(14, 10, p.octet(0)) }

// Nodes is the network between the nodes and the host.
func (p Plan) Nodes() netip.Prefix { return prefix(24, 10, p.octet(0)) }

// Pods covers the pods of every node.
func (p Plan) Pods() netip.Prefix { return prefix(16, 10, p.octet(1)) }

// Services is the range of ClusterIPs.
func (p Plan) Services() netip.Prefix { return prefix(16, 10, p.octet(2)) }

// LoadBalancers is the range of LoadBalancer addresses.
func (p Plan) LoadBalancers() netip.Prefix { return prefix(24, 10, p.octet(3)) }

// Node is the address of node number n, counted from 1. Node 1 runs the control plane.
func (p Plan) Node(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, p.octet(0), 0, byte(n)}) }

// NodePods is the range of the pods of node number n.
func (p Plan) NodePods(n int) netip.Prefix { return prefix(24, 10, p.octet(1), byte(n)) }

// Gateway is the nodes' default gateway; it answers "unreachable" for what is not of the cluster.
func (p Plan) Gateway() netip.Addr { return netip.AddrFrom4([4]byte{10, p.octet(0), 0, gatewayHost}) }

// Host is the host's own address in the nodes' network.
func (p Plan) Host() netip.Addr { return netip.AddrFrom4([4]byte{10, p.octet(0), 0, hostHost}) }

// KubernetesService is the ClusterIP of the API server.
func (p Plan) KubernetesService() netip.Addr { return netip.AddrFrom4([4]byte{10, p.octet(2), 0, 1}) }

// DNS is the ClusterIP of the cluster's name server.
func (p Plan) DNS() netip.Addr { return netip.AddrFrom4([4]byte{10, p.octet(2), 0, 10}) }

// Server is the API server's URL.
func (p Plan) Server() string { return fmt.Sprintf("https://%s:6443", p.Node(1)) }

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
func ChooseBlock(id string, inUse []netip.Prefix) (Plan, error) {
	first := FirstBlock(id)
	for i := range Blocks {
		p := Plan{ID: id, Block: (first + i) % Blocks}
		if !overlapsAny(p.All(), inUse) {
			return p, nil
		}
	}
	return Plan{}, fmt.Errorf("no free address block: this host has routes into all %d blocks of 10.128.0.0/9; `ip route` lists them", Blocks)
}

func overlapsAny(candidate netip.Prefix, inUse []netip.Prefix) bool {
	for _, used := range inUse {
		if used.Bits() > 0 && used.Overlaps(candidate) {
			return true
		}
	}
	return false
}

package host

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"weft.dev/cluster/plan"
)

const netnsDir = "/run/netns"

// In runs act in a network namespace, on a thread of its own; processes that act starts stay in the
// namespace. Unlike with `ip netns exec`, the mounts are unchanged, so that /sys/fs/cgroup remains
// visible.
func In(netns string, act func() error) error {
	result := make(chan error)
	go func() {
		// The thread is never unlocked, so it ends with this goroutine and no other goroutine runs
		// in its namespace.
		runtime.LockOSThread()
		result <- enter(netns, act)
	}()
	return <-result
}

func enter(netns string, act func() error) error {
	file, err := os.Open(filepath.Join(netnsDir, netns))
	if err != nil {
		return fmt.Errorf("network namespace %s: %w", netns, err)
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", netns, err)
	}
	return act()
}

// Namespaces lists the network namespaces whose names start with prefix.
func Namespaces(prefix string) []string {
	entries, err := os.ReadDir(netnsDir)
	if err != nil {
		return nil // no namespace was ever created
	}
	var names []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), prefix) {
			names = append(names, entry.Name())
		}
	}
	return names
}

// AddFabric creates the namespace with the bridge that connects the nodes, and the host's link to
// it.
func AddFabric(ctx context.Context, p plan.Plan) error {
	fabric := p.Fabric()
	if _, err := Run(ctx, "ip", "netns", "add", fabric); err != nil {
		return err
	}
	commands := []string{"link set lo up", "link add br0 type bridge"}
	commands = append(commands, addAddresses(p, p.Gateway(), "br0")...)
	if err := ipBatch(ctx, fabric, append(commands, "link set br0 up")...); err != nil {
		return err
	}
	commands = []string{fmt.Sprintf("link add %s type veth peer name host netns %s", p.HostLink(), fabric)}
	commands = append(commands, addAddresses(p, p.Host(), p.HostLink())...)
	if err := ipBatch(ctx, "", append(commands, fmt.Sprintf("link set %s up", p.HostLink()))...); err != nil {
		return err
	}
	if err := ipBatch(ctx, fabric, "link set host master br0 up"); err != nil {
		return err
	}
	return In(fabric, func() error { return setSysctls(fabricSysctls(p.Family)) })
}

// addAddresses returns the commands that give a link its address of each family in the nodes'
// network. nodad: the addresses are unique, so IPv6 needs no duplicate address detection.
func addAddresses(p plan.Plan, addresses []netip.Addr, link string) []string {
	var commands []string
	for i, address := range addresses {
		command := fmt.Sprintf("address add %s/%d dev %s", address, p.Nodes()[i].Bits(), link)
		if address.Is6() {
			command += " nodad"
		}
		commands = append(commands, command)
	}
	return commands
}

type sysctl struct{ name, value string }

// fabricSysctls make the default gateway forward, so that it answers packets without a route with
// an ICMP error.
func fabricSysctls(family plan.Family) []sysctl {
	set := []sysctl{{"net/ipv4/ip_forward", "1"}}
	if family.HasIPv6() {
		set = append(set, sysctl{"net/ipv6/conf/all/forwarding", "1"})
	}
	return set
}

// nodeSysctls make a node forward packets, and apply NAT to packets that its bridge forwards.
func nodeSysctls(family plan.Family) []sysctl {
	set := append(fabricSysctls(family),
		sysctl{"net/bridge/bridge-nf-call-iptables", "1"},
		// A packet to a ClusterIP before kube-proxy has rules for it would be redirected to the
		// gateway, and the sender would cache that for minutes. Either of the two settings alone
		// enables redirects.
		sysctl{"net/ipv4/conf/all/send_redirects", "0"},
		sysctl{"net/ipv4/conf/eth0/send_redirects", "0"},
	)
	if family.HasIPv6() {
		set = append(set, sysctl{"net/bridge/bridge-nf-call-ip6tables", "1"})
	}
	return set
}

// AddNode creates the namespace of node number n, connects it to the fabric, and adds routes to it
// on the host and the earlier nodes.
func AddNode(ctx context.Context, p plan.Plan, n int) error {
	netns, port := p.NodeSpace(n), fmt.Sprintf("n%d", n)
	if _, err := Run(ctx, "ip", "netns", "add", netns); err != nil {
		return err
	}
	err := ipBatch(ctx, p.Fabric(),
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", port, netns),
		fmt.Sprintf("link set %s master br0 up", port),
	)
	if err != nil {
		return err
	}
	commands := append([]string{"link set lo up"}, addAddresses(p, p.Node(n), "eth0")...)
	commands = append(commands, "link set eth0 up")
	for _, gateway := range p.Gateway() {
		commands = append(commands, fmt.Sprintf("route add default via %s", gateway))
	}
	for other := 1; other < n; other++ {
		commands = append(commands, routes(p.NodePods(other), p.Node(other), "")...)
		if err := ipBatch(ctx, p.NodeSpace(other), routes(p.NodePods(n), p.Node(n), "")...); err != nil {
			return err
		}
	}
	if err := ipBatch(ctx, netns, commands...); err != nil {
		return err
	}
	if err := refuseUnknownServices(ctx, p, netns); err != nil {
		return err
	}
	if err := In(netns, func() error { return setSysctls(nodeSysctls(p.Family)) }); err != nil {
		return fmt.Errorf("prepare %s (is the kernel module br_netfilter loaded?): %w", netns, err)
	}
	return addHostRoutes(ctx, p, n)
}

// refuseUnknownServices rejects connections to ClusterIPs that kube-proxy has no rules for yet. If
// they were forwarded, connection tracking would keep them as not translated, and for two minutes
// every new connection from the same port would match that entry. Packets of the node itself are
// not affected: they are routed before they are translated.
func refuseUnknownServices(ctx context.Context, p plan.Plan, netns string) error {
	for _, services := range slices.Concat(p.Services(), p.LoadBalancers()) {
		family := "-4" // ip(8) does not tell it from a rule's range
		if services.Addr().Is6() {
			family = "-6"
		}
		for _, from := range []string{"eth0", "cni0"} {
			rule := []string{family, "-n", netns, "rule", "add", "iif", from, "to", services.String(), "unreachable"}
			if _, err := Run(ctx, "ip", rule...); err != nil {
				return err
			}
		}
	}
	return nil
}

// routes returns the commands that route each range through the address of its family; link may be
// empty.
func routes(ranges []netip.Prefix, via []netip.Addr, link string) []string {
	var commands []string
	for i, to := range ranges {
		command := fmt.Sprintf("route add %s via %s", to, via[i])
		if link != "" {
			command += " dev " + link
		}
		commands = append(commands, command)
	}
	return commands
}

// SetNodeLink sets the link between node number n and the fabric up or down.
func SetNodeLink(ctx context.Context, p plan.Plan, n int, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	return ipBatch(ctx, p.Fabric(), fmt.Sprintf("link set n%d %s", n, state))
}

// addHostRoutes adds routes on the host to node n's pods and, through node 1, to Services and
// LoadBalancer addresses.
func addHostRoutes(ctx context.Context, p plan.Plan, n int) error {
	commands := routes(p.NodePods(n), p.Node(n), p.HostLink())
	if n == 1 {
		commands = append(commands, routes(p.Services(), p.Node(n), p.HostLink())...)
		commands = append(commands, routes(p.LoadBalancers(), p.Node(n), p.HostLink())...)
	}
	return ipBatch(ctx, "", commands...)
}

// RemoveNetwork removes the cluster's namespaces, and with them their links and routes. The kernel
// may remove the host's end of a veth late, so that is deleted by name first.
func RemoveNetwork(ctx context.Context, prefix, hostLink string) error {
	if _, err := os.Stat(filepath.Join("/sys/class/net", hostLink)); err == nil {
		if _, err := Run(ctx, "ip", "link", "delete", hostLink); err != nil {
			return err
		}
	}
	for _, netns := range Namespaces(prefix) {
		if _, err := Run(ctx, "ip", "netns", "delete", netns); err != nil {
			return err
		}
	}
	return nil
}

// PrefixesInUse returns the prefixes of this host's routes and addresses.
func PrefixesInUse(ctx context.Context) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, family := range []string{"-4", "-6"} {
		text, err := Run(ctx, "ip", family, "route", "show", "table", "all")
		if err != nil {
			return nil, err
		}
		prefixes = append(prefixes, parseRoutes(text)...)
	}
	return prefixes, nil
}

// parseRoutes parses the destinations of `ip route show table all`, whose lines may start with the
// route's type.
func parseRoutes(text string) []netip.Prefix {
	var prefixes []netip.Prefix
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		for _, word := range words[:min(2, len(words))] {
			if found, err := netip.ParsePrefix(word); err == nil {
				prefixes = append(prefixes, found.Masked())
				break
			}
			if address, err := netip.ParseAddr(word); err == nil {
				prefixes = append(prefixes, netip.PrefixFrom(address, address.BitLen()))
				break
			}
		}
	}
	return prefixes
}

// ipBatch runs several ip(8) commands in a namespace, or on the host if netns is empty.
func ipBatch(ctx context.Context, netns string, commands ...string) error {
	args := []string{"-batch", "-"}
	if netns != "" {
		args = append([]string{"-n", netns}, args...)
	}
	input := []byte(strings.Join(commands, "\n") + "\n")
	if _, err := RunInput(ctx, input, "ip", args...); err != nil {
		return fmt.Errorf("set up the network (%s): %w", strings.Join(commands, "; "), err)
	}
	return nil
}

func setSysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644)
}

func setSysctls(all []sysctl) error {
	for _, one := range all {
		if err := setSysctl(one.name, one.value); err != nil {
			return err
		}
	}
	return nil
}

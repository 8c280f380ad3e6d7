package host

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
	"weft.dev/cluster/plan"
)

const netnsDir = "/run/netns"

// In runs act in a network namespace. act runs on a thread of its own, and what it starts stays in the namespace.
// Unlike `ip netns exec`, the mounts stay as they are, so that /sys/fs/cgroup remains visible.
func In(netns string, act func() error) error {
	result := make(chan error)
	go func() {
		// The thread is never unlocked, so that it ends with this goroutine and no other one meets its namespace.
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

// Namespaces lists the network namespaces whose names begin with prefix.
func Namespaces(prefix string) []string {
	entries, err := os.ReadDir(netnsDir)
	if err != nil {
		return nil // nobody has made a namespace yet
	}
	var names []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), prefix) {
			names = append(names, entry.Name())
		}
	}
	return names
}

// AddFabric makes the namespace with the bridge that all nodes share, and the link from the host into it.
func AddFabric(ctx context.Context, p plan.Plan) error {
	fabric := p.Fabric()
	if _, err := Run(ctx, "ip", "netns", "add", fabric); err != nil {
		return err
	}
	bits := p.Nodes().Bits()
	err := ipBatch(ctx, fabric,
		"link set lo up",
		"link add br0 type bridge",
		fmt.Sprintf("address add %s/%d dev br0", p.Gateway(), bits),
		"link set br0 up",
	)
	if err != nil {
		return err
	}
	err = ipBatch(ctx, "",
		fmt.Sprintf("link add %s type veth peer name host netns %s", p.HostLink(), fabric),
		fmt.Sprintf("address add %s/%d dev %s", p.Host(), bits, p.HostLink()),
		fmt.Sprintf("link set %s up", p.HostLink()),
	)
	if err != nil {
		return err
	}
	if err := ipBatch(ctx, fabric, "link set host master br0 up"); err != nil {
		return err
	}
	return In(fabric, func() error { return setSysctl("net/ipv4/ip_forward", "1") })
}

// AddNode makes the namespace of node number n, joins it to the fabric and tells the host and the nodes before it the way.
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
	commands := []string{
		"link set lo up",
		fmt.Sprintf("address add %s/%d dev eth0", p.Node(n), p.Nodes().Bits()),
		"link set eth0 up",
		fmt.Sprintf("route add default via %s", p.Gateway()),
	}
	// What kube-proxy has no rules for yet ends here. Passed on, it would be remembered as a connection that is not
	// translated, and for two minutes every new connection from the same port would be taken for that one. What the node
	// itself sends is left alone: its way is looked up before it is translated.
	for _, services := range []netip.Prefix{p.Services(), p.LoadBalancers()} {
		for _, from := range []string{"eth0", "cni0"} {
			commands = append(commands, fmt.Sprintf("rule add iif %s to %s unreachable", from, services))
		}
	}
	for other := 1; other < n; other++ {
		commands = append(commands, fmt.Sprintf("route add %s via %s", p.NodePods(other), p.Node(other)))
		toNew := fmt.Sprintf("route add %s via %s", p.NodePods(n), p.Node(n))
		if err := ipBatch(ctx, p.NodeSpace(other), toNew); err != nil {
			return err
		}
	}
	if err := ipBatch(ctx, netns, commands...); err != nil {
		return err
	}
	err = In(netns, func() error {
		for _, set := range [][2]string{
			{"net/ipv4/ip_forward", "1"},
			{"net/bridge/bridge-nf-call-iptables", "1"},
			// An address that is asked for before kube-proxy has rules for it would be redirected to the gateway, and the
			// asking host would remember that for minutes. Either of the two is enough to send redirects.
			{"net/ipv4/conf/all/send_redirects", "0"},
			{"net/ipv4/conf/eth0/send_redirects", "0"},
		} {
			if err := setSysctl(set[0], set[1]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("prepare %s (is the kernel module br_netfilter loaded?): %w", netns, err)
	}
	return addHostRoutes(ctx, p, n)
}

// SetNodeLink plugs node number n into the fabric, or out of it.
func SetNodeLink(ctx context.Context, p plan.Plan, n int, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	return ipBatch(ctx, p.Fabric(), fmt.Sprintf("link set n%d %s", n, state))
}

// addHostRoutes lets the host reach node n's pods and, by way of node 1, Services and LoadBalancer addresses.
func addHostRoutes(ctx context.Context, p plan.Plan, n int) error {
	ranges := []netip.Prefix{p.NodePods(n)}
	if n == 1 {
		ranges = append(ranges, p.Services(), p.LoadBalancers())
	}
	var commands []string
	for _, to := range ranges {
		commands = append(commands, fmt.Sprintf("route add %s via %s dev %s", to, p.Node(n), p.HostLink()))
	}
	return ipBatch(ctx, "", commands...)
}

// RemoveNetwork removes the cluster's namespaces, and with them every link and route that begins or ends in one. The host's
// own end of a veth goes in its namespace's cleanup, which the kernel may do late, so it is removed by name first.
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

// PrefixesInUse lists what this host's routes and addresses cover.
func PrefixesInUse(ctx context.Context) ([]netip.Prefix, error) {
	text, err := Run(ctx, "ip", "-4", "route", "show", "table", "all")
	if err != nil {
		return nil, err
	}
	return parseRoutes(text), nil
}

// parseRoutes reads the destinations of `ip -4 route show table all`, whose lines may begin with the route's type.
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

// ipBatch runs several commands of ip(8) in a namespace, or on the host when netns is empty.
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

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"weft.dev/cluster/plan"
)

// packages maps each Debian package that the embedded cluster needs to one of its files or
// programs.
var packages = []struct{ name, provides string }{
	{"containerd", "containerd"},
	{"runc", "runc"},
	{"containernetworking-plugins", "/usr/lib/cni/bridge"},
	{"iptables", "iptables"},
	{"nftables", "nft"},
	{"conntrack", "conntrack"},
	{"ipset", "ipset"},
	{"socat", "socat"},
	{"iproute2", "ip"},
	{"kmod", "modprobe"},
}

// CNIPlugins is where Debian puts the CNI plugins.
const CNIPlugins = "/usr/lib/cni"

// Ready checks privileges and installs missing packages. say reports progress to the user.
func Ready(ctx context.Context, family plan.Family, say func(format string, args ...any)) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed: the embedded cluster creates network namespaces, mounts and cgroups. Run it as root, or use kind (E2E_CLUSTER=kind)")
	}
	if err := checkCapabilities(); err != nil {
		return err
	}
	if family.HasIPv6() {
		if err := checkIPv6(ipv6Switch); err != nil {
			return err
		}
	}
	if missing := missingPackages(); len(missing) > 0 {
		if err := install(ctx, missing, say); err != nil {
			return err
		}
	}
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		if _, err := Run(ctx, "modprobe", "br_netfilter"); err != nil {
			return fmt.Errorf("the kernel module br_netfilter is needed: %w", err)
		}
	}
	return nil
}

// ipv6Switch tells whether new links of the host get IPv6; kernels without IPv6 lack the file.
const ipv6Switch = "/proc/sys/net/ipv6/conf/default/disable_ipv6"

func checkIPv6(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("this address family needs a kernel with IPv6: %w", err)
	}
	if strings.TrimSpace(string(text)) != "0" {
		return errors.New("this address family needs IPv6, which is disabled on this host: sysctl net.ipv6.conf.default.disable_ipv6=0")
	}
	return nil
}

func missingPackages() []string {
	var missing []string
	for _, p := range packages {
		if strings.HasPrefix(p.provides, "/") {
			if _, err := os.Stat(p.provides); err != nil {
				missing = append(missing, p.name)
			}
		} else if _, err := exec.LookPath(p.provides); err != nil {
			missing = append(missing, p.name)
		}
	}
	return missing
}

func install(ctx context.Context, missing []string, say func(string, ...any)) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("packages are missing, and apt-get is not available to install them (names as in Debian): %s", strings.Join(missing, " "))
	}
	say("installing Debian packages: %s", strings.Join(missing, " "))
	args := append([]string{"DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends"}, missing...)
	if _, err := Run(ctx, "env", args...); err == nil {
		return nil
	}
	// A new machine has no package lists yet.
	if _, err := Run(ctx, "apt-get", "update"); err != nil {
		return err
	}
	_, err := Run(ctx, "env", args...)
	return err
}

// checkCapabilities checks for the capabilities that root in a container often lacks.
func checkCapabilities() error {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		value, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		var effective uint64
		if _, err := fmt.Sscanf(strings.TrimSpace(value), "%x", &effective); err != nil {
			return fmt.Errorf("read the capabilities in /proc/self/status: %w", err)
		}
		if lacking := lackingCapabilities(effective); len(lacking) > 0 {
			return fmt.Errorf("root lacks the capabilities %s; a container must be run with them", strings.Join(lacking, ", "))
		}
	}
	return nil
}

// lackingCapabilities returns the needed capabilities that are not in the set; numbers as in
// linux/capability.h.
func lackingCapabilities(effective uint64) []string {
	var lacking []string
	for _, needed := range []struct {
		bit  int
		name string
	}{{12, "CAP_NET_ADMIN"}, {19, "CAP_SYS_PTRACE"}, {21, "CAP_SYS_ADMIN"}} {
		if effective&(1<<needed.bit) == 0 {
			lacking = append(lacking, needed.name)
		}
	}
	return lacking
}

// Sibling tells whether another checkout has a cluster on this host.
func Sibling(prefix string) bool {
	spaces, _ := filepath.Glob(netnsDir + "/weft-*-fabric")
	for _, space := range spaces {
		if !strings.HasPrefix(filepath.Base(space), prefix) {
			return true
		}
	}
	return false
}

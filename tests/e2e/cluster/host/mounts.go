package host

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Unmount detaches everything that is mounted at or below dir.
func Unmount(dir string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	points := mountsBelow(string(text), dir)
	slices.Reverse(points) // what was mounted last goes first
	for _, point := range points {
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil && err != syscall.EINVAL {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

// mountsBelow reads the mount points at or below dir from a mountinfo file, in the order of mounting.
func mountsBelow(mountinfo, dir string) []string {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var points []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape.Replace(fields[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	return points
}

// RemoveStrays removes the few files that containerd, the CNI plugins and the kubelet write to fixed places of the host:
// the shims' sockets, the results of CNI and the links to the pods' logs. root is the cluster's folder.
func RemoveStrays(root, prefix string) {
	addresses, _ := filepath.Glob(filepath.Join(root, "n*/run/io.containerd.runtime.v2.task/*/*/address"))
	for _, file := range addresses {
		text, _ := os.ReadFile(file)
		if socket, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "unix://"); ok && strings.HasPrefix(socket, "/run/containerd/s/") {
			_ = os.Remove(socket)
		}
	}
	results, _ := filepath.Glob("/var/lib/cni/results/" + prefix + "*")
	for _, file := range results {
		_ = os.Remove(file)
	}
	links, _ := filepath.Glob("/var/log/containers/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, root+"/") {
			_ = os.Remove(link)
		}
	}
	// Folders that hold nothing any more; one that holds something stays.
	for _, dir := range []string{"/run/containerd/s", "/run/containerd", "/var/lib/cni/results", "/var/lib/cni", "/var/log/containers"} {
		_ = syscall.Rmdir(dir)
	}
}

package host

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// sharedFolders are folders of the host that containerd, the CNI plugins and the kubelet use
// regardless of their configuration.
var sharedFolders = []string{"/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers"}

// AbsentFolders returns the shared folders that do not exist yet, for RemoveFolders.
func AbsentFolders() []string {
	var absent []string
	for _, folder := range sharedFolders {
		if _, err := os.Stat(folder); os.IsNotExist(err) {
			absent = append(absent, folder)
		}
	}
	return absent
}

// RemoveFolders removes the folders that did not exist before the cluster, which must be the last
// one on this host.
func RemoveFolders(absent []string) error {
	for _, folder := range sharedFolders {
		for _, made := range absent {
			if made != folder {
				continue
			}
			if err := os.RemoveAll(folder); err != nil {
				return err
			}
		}
	}
	return nil
}

// RemoveStrays removes a cluster's files from the shared folders: the shims' sockets, CNI results
// and links to pod logs. root is the cluster's folder.
func RemoveStrays(root, prefix string) {
	addresses, _ := filepath.Glob(filepath.Join(root, "n*/run/io.containerd.runtime.v2.task/*/*/address"))
	for _, file := range addresses {
		text, _ := os.ReadFile(file)
		socket, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "unix://")
		if ok && strings.HasPrefix(socket, "/run/containerd/s/") {
			_ = os.Remove(socket)
		}
	}
	results, _ := filepath.Glob("/var/lib/cni/results/" + prefix + "*")
	for _, file := range results {
		_ = os.Remove(file)
		// Named NETWORK-CONTAINER-eth0; the loopback plugin's results have only the container's
		// name.
		parts := strings.Split(strings.TrimPrefix(filepath.Base(file), prefix), "-")
		if len(parts) == 3 {
			_ = os.Remove("/var/lib/cni/results/cni-loopback-" + parts[1] + "-lo")
		}
	}
	links, _ := filepath.Glob("/var/log/containers/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, root+"/") {
			_ = os.Remove(link)
		}
	}
	// Removes empty folders only.
	for _, dir := range []string{"/run/containerd/s", "/run/containerd", "/var/lib/cni/results", "/var/lib/cni", "/var/log/containers"} {
		_ = syscall.Rmdir(dir)
	}
}

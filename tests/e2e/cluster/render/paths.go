// Package render generates the files and flags of the cluster's programs from a plan. It is pure:
// no I/O.
package render

import (
	"fmt"
	"path/filepath"
)

// Paths are the folders of a cluster's state, all below Root, which is .cluster in the checkout.
type Paths struct {
	Root string
}

func (p Paths) PKI() string        { return filepath.Join(p.Root, "pki") }
func (p Paths) Logs() string       { return filepath.Join(p.Root, "log") }
func (p Paths) Kubeconfig() string { return filepath.Join(p.Root, "kubeconfig") }
func (p Paths) State() string      { return filepath.Join(p.Root, "state.json") }
func (p Paths) Etcd() string       { return filepath.Join(p.Root, "etcd") }

// Cert and Key return the files of a certificate that the cluster's authority issued.
func (p Paths) Cert(name string) string { return filepath.Join(p.PKI(), name+".crt") }
func (p Paths) Key(name string) string  { return filepath.Join(p.PKI(), name+".key") }

// Admission and Webhooks return the API server's configuration of admission, and the kubeconfig that
// it names.
func (p Paths) Admission() string { return filepath.Join(p.PKI(), "admission.json") }
func (p Paths) Webhooks() string  { return filepath.Join(p.PKI(), "webhooks.json") }

// Conf returns the path of a program's kubeconfig.
func (p Paths) Conf(name string) string { return filepath.Join(p.PKI(), name+".conf") }

// Node returns the paths of node number n.
func (p Paths) Node(n int) NodePaths {
	return NodePaths{Root: filepath.Join(p.Root, fmt.Sprintf("n%d", n))}
}

// NodePaths are the paths of one node's state.
type NodePaths struct {
	Root string
}

func (n NodePaths) Containerd() string       { return filepath.Join(n.Root, "containerd") }
func (n NodePaths) ContainerdRun() string    { return filepath.Join(n.Root, "run") }
func (n NodePaths) ContainerdConfig() string { return filepath.Join(n.Root, "containerd.toml") }
func (n NodePaths) ContainerdSocket() string { return filepath.Join(n.Root, "containerd.sock") }
func (n NodePaths) Runc() string             { return filepath.Join(n.Root, "runc") }
func (n NodePaths) CNIConfig() string        { return filepath.Join(n.Root, "cni") }
func (n NodePaths) CNIData() string          { return filepath.Join(n.Root, "cni-data") }
func (n NodePaths) Kubelet() string          { return filepath.Join(n.Root, "kubelet") }
func (n NodePaths) KubeletConfig() string    { return filepath.Join(n.Root, "kubelet.json") }
func (n NodePaths) ProxyConfig() string      { return filepath.Join(n.Root, "kube-proxy.json") }
func (n NodePaths) PodLogs() string          { return filepath.Join(n.Root, "pods") }
func (n NodePaths) ResolvConf() string       { return filepath.Join(n.Root, "resolv.conf") }
func (n NodePaths) VolumePlugins() string    { return filepath.Join(n.Root, "volume-plugins") }

// longestSocket is the longest path of a socket below Root.
const longestSocket = "n16/kubelet/device-plugins/kubelet.sock"

// CheckLength returns an error for a folder whose socket paths would exceed the kernel's limit.
func (p Paths) CheckLength() error {
	const limit = 107
	if length := len(p.Root) + 1 + len(longestSocket); length > limit {
		return fmt.Errorf("the path %s is %d characters too long: a Unix socket's path has %d at most. Move the checkout to a shorter path",
			p.Root, length-limit, limit)
	}
	return nil
}

package embedded

import (
	"context"
	"fmt"
	"os"

	"weft.dev/cluster/host"
	"weft.dev/cluster/pki"
	"weft.dev/cluster/plan"
	"weft.dev/cluster/render"
)

// addNode creates what node number n needs before its programs start: namespace, cgroup,
// certificate, configuration.
func (r *run) addNode(ctx context.Context, n int) error {
	// Saved first, so that `down` knows of the node even if the rest fails.
	r.state.Nodes = n
	if err := r.save(r.state); err != nil {
		return err
	}
	if err := host.AddNode(ctx, r.plan, n); err != nil {
		return err
	}
	if err := host.AddCgroup(r.plan.NodeSpace(n)); err != nil {
		return err
	}
	authority, err := pki.Load(r.paths.PKI())
	if err != nil {
		return err
	}
	name := plan.NodeName(n)
	leaf := pki.Leaf{
		CommonName:   "system:node:" + name,
		Organization: []string{"system:nodes"},
		DNSNames:     []string{name},
		IPs:          netIPs(r.plan.Node(n)),
	}
	if err := r.client(authority, name, leaf); err != nil {
		return err
	}
	return r.configure(n)
}

// join adds node number n to a running cluster and waits until it is ready.
func (r *run) join(ctx context.Context, n int, images []string) error {
	if err := r.addNode(ctx, n); err != nil {
		return err
	}
	if err := r.startRuntime(ctx, n, images); err != nil {
		return err
	}
	if err := r.startNode(n); err != nil {
		return err
	}
	return r.waitReady(ctx)
}

// configure writes the configuration of node number n's programs.
func (r *run) configure(n int) error {
	node := r.paths.Node(n)
	for _, dir := range []string{node.CNIConfig(), node.CNIData(), node.Kubelet(), node.PodLogs(), node.VolumePlugins()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	kubelet, err := render.KubeletConfig(r.plan, r.paths, n)
	if err != nil {
		return err
	}
	proxy, err := render.ProxyConfig(r.plan, r.paths, n)
	if err != nil {
		return err
	}
	cni, err := render.CNIConfig(r.plan, r.paths, n)
	if err != nil {
		return err
	}
	for file, text := range map[string][]byte{
		node.KubeletConfig():                kubelet,
		node.ProxyConfig():                  proxy,
		node.CNIConfig() + "/pods.conflist": cni,
		node.ContainerdConfig():             render.ContainerdConfig(r.paths, n, host.CNIPlugins),
		node.ResolvConf():                   render.ResolvConf(),
	} {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// startRuntime starts the containerd of node number n and imports the images.
func (r *run) startRuntime(ctx context.Context, n int, images []string) error {
	argv := []string{"containerd", "--config", r.paths.Node(n).ContainerdConfig()}
	if err := r.startCommand(fmt.Sprintf("containerd-%d", n), n, argv); err != nil {
		return err
	}
	err := r.wait(ctx, fmt.Sprintf("containerd on node %d", n), func() error {
		_, err := host.Run(ctx, "ctr", "--address", r.paths.Node(n).ContainerdSocket(), "version")
		return err
	})
	if err != nil {
		return err
	}
	return r.importImages(ctx, n, images)
}

func (c *Cluster) importImages(ctx context.Context, n int, archives []string) error {
	for _, archive := range archives {
		_, err := host.Run(ctx, "ctr", "--address", c.paths.Node(n).ContainerdSocket(), "--namespace", "k8s.io", "images", "import", archive)
		if err != nil {
			return fmt.Errorf("import %s into node %d: %w", archive, n, err)
		}
	}
	return nil
}

// startNode starts the kubelet and the kube-proxy of node number n.
func (r *run) startNode(n int) error {
	if err := r.startProgram(fmt.Sprintf("kubelet-%d", n), n, render.KubeletArgs(r.plan, r.paths, n)); err != nil {
		return err
	}
	return r.startProgram(fmt.Sprintf("kube-proxy-%d", n), n, render.ProxyArgs(r.paths, n))
}

package render

import (
	"fmt"

	"weft.dev/cluster/plan"
	"weft.dev/cluster/versions"
)

// KubeletArgs returns the kubelet's flags.
func KubeletArgs(p plan.Plan, paths Paths, n int) []string {
	node := paths.Node(n)
	return []string{
		"kubelet",
		"--config=" + node.KubeletConfig(),
		"--kubeconfig=" + paths.Conf(plan.NodeName(n)),
		"--hostname-override=" + plan.NodeName(n),
		"--node-ip=" + plan.List(p.Node(n)),
		"--root-dir=" + node.Kubelet(),
		"--cert-dir=" + node.Kubelet(),
	}
}

// KubeletConfig returns the kubelet's configuration file.
func KubeletConfig(p plan.Plan, paths Paths, n int) ([]byte, error) {
	node := paths.Node(n)
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"address":    anyAddress(p),
		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": paths.Cert("ca")},
		},
		"authorization":            object{"mode": "Webhook"},
		"tlsCertFile":              paths.Cert(plan.NodeName(n)),
		"tlsPrivateKeyFile":        paths.Key(plan.NodeName(n)),
		"clusterDNS":               []string{p.DNS()[0].String()},
		"clusterDomain":            clusterDomain,
		"containerRuntimeEndpoint": "unix://" + node.ContainerdSocket(),
		"resolvConf":               node.ResolvConf(),
		"podLogsDir":               node.PodLogs(),
		"volumePluginDir":          node.VolumePlugins(),
		// A kubelet removes pod cgroups that it does not know, so each kubelet has its own root.
		"cgroupRoot":   "/" + p.NodeSpace(n),
		"cgroupDriver": "cgroupfs",
		"failCgroupV1": false,
		"failSwapOn":   false,
		"maxPods":      250,
		// The lease is renewed every 2 s, four times as often as by default.
		"nodeLeaseDurationSeconds": 8,
		"serializeImagePulls":      false,
		// Images cannot be pulled again, so none is removed, and pods are evicted only when the
		// disk is nearly full.
		"imageGCHighThresholdPercent": 100,
		"evictionHard":                object{"imagefs.available": "1%", "nodefs.available": "1%"},
	}.json()
}

// ProxyArgs returns kube-proxy's flags.
func ProxyArgs(paths Paths, n int) []string {
	return []string{"kube-proxy", "--config=" + paths.Node(n).ProxyConfig()}
}

// ProxyConfig returns kube-proxy's configuration file.
func ProxyConfig(p plan.Plan, paths Paths, n int) ([]byte, error) {
	return object{
		"apiVersion":       "kubeproxy.config.k8s.io/v1alpha1",
		"kind":             "KubeProxyConfiguration",
		"clientConnection": object{"kubeconfig": paths.Conf("kube-proxy")},
		"mode":             "iptables",
		"clusterCIDR":      plan.List(p.Pods()),
		"bindAddress":      anyAddress(p),
		"hostnameOverride": plan.NodeName(n),
		// Keeps the host's connection tracking limits.
		"conntrack": object{"maxPerCore": 0, "min": 0},
	}.json()
}

// ResolvConf returns the resolv.conf of pods with dnsPolicy Default: there is no DNS server outside
// the cluster.
func ResolvConf() []byte { return []byte("nameserver 127.0.0.1\n") }

// CNIConfig returns the pods' network: a bridge on the node, without masquerading, as every node
// has routes to every pod range.
func CNIConfig(p plan.Plan, paths Paths, n int) ([]byte, error) {
	var ranges [][]object // one set per IP family; a pod gets an address of each
	var routes []object
	for _, pods := range p.NodePods(n) {
		ranges = append(ranges, []object{{"subnet": pods.String()}})
		everywhere := "0.0.0.0/0"
		if pods.Addr().Is6() {
			everywhere = "::/0"
		}
		routes = append(routes, object{"dst": everywhere})
	}
	return object{
		"cniVersion": "1.0.0",
		"name":       p.NodeSpace(n),
		"plugins": []object{
			{
				"type":        "bridge",
				"bridge":      "cni0",
				"isGateway":   true,
				"ipMasq":      false,
				"hairpinMode": true,
				"ipam": object{
					"type":    "host-local",
					"dataDir": paths.Node(n).CNIData(),
					"ranges":  ranges,
					"routes":  routes,
				},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}},
		},
	}.json()
}

// ContainerdConfig returns containerd's configuration file, in version 2, which containerd 1.x and
// 2.x read. All paths are in the node's folder instead of the host's.
func ContainerdConfig(paths Paths, n int, cniPlugins string) []byte {
	node := paths.Node(n)
	return fmt.Appendf(nil, `version = 2
root = %q
state = %q

[grpc]
  address = %q

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true
  disable_apparmor = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = %q
`, node.Containerd(), node.ContainerdRun(), node.ContainerdSocket(), versions.PauseImage, cniPlugins, node.CNIConfig(), node.Runc())
}

package render

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"weft.dev/cluster/plan"
)

const (
	clusterDomain = "cluster.local"
	issuer        = "https://kubernetes.default.svc." + clusterDomain
	etcdURL       = "http://127.0.0.1:2379"
)

// EtcdArgs returns etcd's flags.
func EtcdArgs(paths Paths) []string {
	return []string{"etcd", "--data-dir=" + paths.Etcd(), "--listen-client-url=" + etcdURL}
}

// anyAddress returns the wildcard address for programs that must be reachable on all of the
// cluster's addresses.
func anyAddress(p plan.Plan) string {
	if p.Family.HasIPv6() {
		return "::" // takes IPv4 too
	}
	return "0.0.0.0"
}

// APIServerArgs returns the API server's flags. Admission plugins are the default ones, including
// webhooks.
func APIServerArgs(p plan.Plan, paths Paths) []string {
	return []string{
		"kube-apiserver",
		"--etcd-servers=" + etcdURL,
		"--advertise-address=" + p.Node(1)[0].String(),
		"--bind-address=" + anyAddress(p),
		"--secure-port=6443",
		"--cert-dir=" + paths.PKI(),
		"--tls-cert-file=" + paths.Cert("apiserver"),
		"--tls-private-key-file=" + paths.Key("apiserver"),
		"--client-ca-file=" + paths.Cert("ca"),
		"--service-account-issuer=" + issuer,
		"--service-account-key-file=" + paths.Key("sa"),
		"--service-account-signing-key-file=" + paths.Key("sa"),
		"--service-cluster-ip-range=" + plan.List(p.Services()),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--admission-control-config-file=" + paths.Admission(),
		"--kubelet-client-certificate=" + paths.Cert("admin"),
		"--kubelet-client-key=" + paths.Key("admin"),
		"--kubelet-certificate-authority=" + paths.Cert("ca"),
		"--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + paths.Cert("ca"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + paths.Cert("front-proxy"),
		"--proxy-client-key-file=" + paths.Key("front-proxy"),
		"--allow-privileged=true",
		// ClusterTrustBundles, which Gateways may refer to, are off by default.
		"--feature-gates=ClusterTrustBundle=true",
		"--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true",
	}
}

// ControllerManagerArgs returns the controller manager's flags. Pod ranges of nodes are the plan's,
// not allocated.
func ControllerManagerArgs(paths Paths) []string {
	conf := paths.Conf("controller-manager")
	return []string{
		"kube-controller-manager",
		"--kubeconfig=" + conf,
		"--authentication-kubeconfig=" + conf,
		"--authorization-kubeconfig=" + conf,
		"--service-account-private-key-file=" + paths.Key("sa"),
		"--root-ca-file=" + paths.Cert("ca"),
		"--cluster-signing-cert-file=" + paths.Cert("ca"),
		"--cluster-signing-key-file=" + paths.Key("ca"),
		"--use-service-account-credentials",
		"--flex-volume-plugin-dir=" + paths.Node(1).VolumePlugins(),
		"--leader-elect=false",
		// A lost node becomes not ready after 16 s instead of 50 s; kubelets renew their leases
		// often enough (KubeletConfig) that an overloaded machine loses none.
		"--node-monitor-period=2s",
		"--node-monitor-grace-period=16s",
		// Each controller requests a token at the start; at the default rate that takes five
		// seconds.
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
	}
}

// SchedulerArgs returns the scheduler's flags.
func SchedulerArgs(paths Paths) []string {
	conf := paths.Conf("scheduler")
	return []string{
		"kube-scheduler",
		"--kubeconfig=" + conf,
		"--authentication-kubeconfig=" + conf,
		"--authorization-kubeconfig=" + conf,
		"--leader-elect=false",
	}
}

// Kubeconfig returns a kubeconfig with embedded certificates.
func Kubeconfig(server string, ca, cert, key []byte) ([]byte, error) {
	for what, text := range map[string][]byte{"authority": ca, "certificate": cert, "key": key} {
		if len(text) == 0 {
			return nil, fmt.Errorf("kubeconfig for %s: the %s is empty", server, what)
		}
	}
	encode := base64.StdEncoding.EncodeToString
	return object{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": "weft",
		"clusters": []object{{"name": "weft", "cluster": object{
			"server":                     server,
			"certificate-authority-data": encode(ca),
		}}},
		"users": []object{{"name": "weft", "user": object{
			"client-certificate-data": encode(cert),
			"client-key-data":         encode(key),
		}}},
		"contexts": []object{{"name": "weft", "context": object{"cluster": "weft", "user": "weft"}}},
	}.json()
}

// object is a YAML or JSON object; configuration is written as JSON, which is YAML without quoting
// problems.
type object map[string]any

func (o object) json() ([]byte, error) {
	text, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}

package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"weft.dev/cluster/addons"
	"weft.dev/cluster/host"
	"weft.dev/cluster/manifests"
	"weft.dev/cluster/pki"
	"weft.dev/cluster/plan"
	"weft.dev/cluster/render"
)

// readyTimeout limits the wait for any part of the cluster.
const readyTimeout = 90 * time.Second

// run is a cluster while it is being created.
type run struct {
	*Cluster
	plan plan.Plan

	mutex     sync.Mutex // nodes start concurrently
	state     state
	processes []*host.Process
}

func (c *Cluster) newRun(s state) *run { return &run{Cluster: c, state: s, plan: c.plan(s)} }

// create creates a cluster. On failure everything is left for inspection; the next `up` removes it.
func (c *Cluster) create(ctx context.Context, nodes int, family plan.Family, images []string) error {
	started := time.Now()
	used, err := host.PrefixesInUse(ctx)
	if err != nil {
		return err
	}
	chosen, err := plan.ChooseBlock(c.id, family, used)
	if err != nil {
		return err
	}
	for _, dir := range []string{c.paths.PKI(), c.paths.Logs()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	r := c.newRun(state{Block: chosen.Block, Family: family, Sysctls: host.SaveSysctls(), AbsentFolders: host.AbsentFolders()})
	if err := c.save(r.state); err != nil {
		return err
	}
	if err := r.start(ctx, nodes, images); err != nil {
		return r.explain(err)
	}
	c.say("ready in %.1f s: %d node(s), addresses %s; KUBECONFIG=%s",
		time.Since(started).Seconds(), nodes, plan.List(chosen.All()), c.paths.Kubeconfig())
	return nil
}

// explain adds to an error the program that exited, which is the most likely cause, and the folder
// of the logs.
func (r *run) explain(err error) error {
	return fmt.Errorf("%w\nthe logs are in %s", errors.Join(err, r.ended()), r.paths.Logs())
}

func (r *run) start(ctx context.Context, nodes int, images []string) error {
	if err := r.certificates(); err != nil {
		return err
	}
	if err := host.AddFabric(ctx, r.plan); err != nil {
		return err
	}
	for n := 1; n <= nodes; n++ {
		if err := r.addNode(ctx, n); err != nil {
			return err
		}
	}
	if err := r.startProgram("etcd", 1, render.EtcdArgs(r.paths)); err != nil {
		return err
	}
	if err := r.startProgram("kube-apiserver", 1, render.APIServerArgs(r.plan, r.paths)); err != nil {
		return err
	}
	// Images are imported while the API server starts.
	runtimes := make(chan error, nodes)
	for n := 1; n <= nodes; n++ {
		go func() { runtimes <- r.startRuntime(ctx, n, images) }()
	}
	api, err := newAPI(r.paths, r.plan.Server())
	if err != nil {
		return err
	}
	if err := r.wait(ctx, "the API server", func() error { return api.readyz(ctx) }); err != nil {
		return err
	}
	if err := r.startProgram("kube-controller-manager", 1, render.ControllerManagerArgs(r.paths)); err != nil {
		return err
	}
	if err := r.startProgram("kube-scheduler", 1, render.SchedulerArgs(r.paths)); err != nil {
		return err
	}
	applied := make(chan error, 1)
	go func() { applied <- r.deploy(ctx) }()
	for range nodes {
		if err := <-runtimes; err != nil {
			return err
		}
	}
	for n := 1; n <= nodes; n++ {
		if err := r.startNode(n); err != nil {
			return err
		}
	}
	if err := <-applied; err != nil {
		return err
	}
	return r.waitReady(ctx)
}

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// netIPs converts addresses for certificates.
func netIPs(addresses []netip.Addr) []net.IP {
	var all []net.IP
	for _, address := range addresses {
		all = append(all, address.AsSlice())
	}
	return all
}

// certificates creates the certificate authority, and the control plane's certificates, keys and
// kubeconfigs.
func (r *run) certificates() error {
	authority, err := pki.New(r.paths.PKI())
	if err != nil {
		return err
	}
	if err := authority.ServiceAccountKey(); err != nil {
		return err
	}
	leaves := map[string]pki.Leaf{
		"apiserver": {
			CommonName: "kube-apiserver",
			DNSNames:   []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"},
			IPs:        netIPs(append(r.plan.Node(1), loopback4, netip.IPv6Loopback(), r.plan.KubernetesService())),
		},
		"front-proxy":        {CommonName: "front-proxy-client"},
		render.WebhookClient: {CommonName: render.WebhookClient},
	}
	for name, leaf := range leaves {
		if err := authority.Issue(name, leaf); err != nil {
			return err
		}
	}
	clients := map[string]pki.Leaf{
		"admin":              {CommonName: "admin", Organization: []string{"system:masters"}},
		"controller-manager": {CommonName: "system:kube-controller-manager"},
		"scheduler":          {CommonName: "system:kube-scheduler"},
		"kube-proxy":         {CommonName: "system:kube-proxy"},
	}
	for name, leaf := range clients {
		if err := r.client(authority, name, leaf); err != nil {
			return err
		}
	}
	if err := r.admission(); err != nil {
		return err
	}
	admin, err := os.ReadFile(r.paths.Conf("admin"))
	if err != nil {
		return err
	}
	return os.WriteFile(r.paths.Kubeconfig(), admin, 0o600)
}

// admission writes with which certificates the API server calls webhooks.
func (r *run) admission() error {
	for path, content := range map[string]func(render.Paths) ([]byte, error){
		r.paths.Admission(): render.AdmissionConfig,
		r.paths.Webhooks():  render.WebhookKubeconfig,
	} {
		text, err := content(r.paths)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// client issues a certificate and writes a kubeconfig with it.
func (r *run) client(authority *pki.Authority, name string, leaf pki.Leaf) error {
	if err := authority.Issue(name, leaf); err != nil {
		return err
	}
	var parts [3][]byte
	for i, file := range []string{r.paths.Cert("ca"), r.paths.Cert(name), r.paths.Key(name)} {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		parts[i] = text
	}
	conf, err := render.Kubeconfig(r.plan.Server(), parts[0], parts[1], parts[2])
	if err != nil {
		return err
	}
	return os.WriteFile(r.paths.Conf(name), conf, 0o600)
}

// deploy applies what every cluster has: DNS, LoadBalancer addresses and the Gateway API's CRDs.
func (r *run) deploy(ctx context.Context) error {
	dns, err := manifests.CoreDNS(r.plan.DNS())
	if err != nil {
		return err
	}
	kubectl := addons.Kubectl{Program: r.builder.Bin("kubectl"), Kubeconfig: r.paths.Kubeconfig()}
	if err := kubectl.Apply(ctx, dns); err != nil {
		return err
	}
	return addons.Install(ctx, kubectl, r.builder, r.plan.LoadBalancers())
}

// startProgram starts a program of the kube binary on a node and saves it in the state.
func (r *run) startProgram(name string, node int, args []string) error {
	return r.startCommand(name, node, append([]string{r.builder.Bin("kube")}, args...))
}

func (r *run) startCommand(name string, node int, argv []string) error {
	log := filepath.Join(r.paths.Logs(), name+".log")
	process, err := host.Start(name, r.plan.NodeSpace(node), log, argv...)
	if err != nil {
		return err
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.processes = append(r.processes, process)
	r.state.Programs = append(r.state.Programs, program{Name: name, Node: node, PID: process.PID})
	return r.save(r.state)
}

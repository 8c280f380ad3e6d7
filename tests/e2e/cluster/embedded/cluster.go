// Package embedded runs a Kubernetes cluster as processes of this machine: each node is a network
// namespace with its own kubelet, containerd and kube-proxy; node 1 also runs the control plane. No
// container engine is needed.
package embedded

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"weft.dev/cluster/build"
	"weft.dev/cluster/host"
	"weft.dev/cluster/plan"
	"weft.dev/cluster/render"
)

// defaultNodes is two, so that traffic crosses between nodes.
const defaultNodes = 2

// Cluster is the one embedded cluster of a checkout.
type Cluster struct {
	id      string
	paths   render.Paths
	builder build.Builder
	say     func(format string, args ...any)
}

// New returns the cluster of the checkout at root.
func New(root string, builder build.Builder, say func(string, ...any)) *Cluster {
	return &Cluster{
		id:      plan.ID(root),
		paths:   render.Paths{Root: filepath.Join(root, ".cluster")},
		builder: builder,
		say:     say,
	}
}

func (c *Cluster) prefix() string { return plan.Prefix(c.id) }

// state is what a later run needs to know of the cluster. It is written before anything is created,
// so that everything can be removed.
type state struct {
	Block    int         `json:"block"`
	Family   plan.Family `json:"family"`
	Nodes    int         `json:"nodes"`
	Programs []program   `json:"programs"`
	// Settings of the host before the cluster, to be restored.
	Sysctls       map[string]string `json:"sysctls"`
	AbsentFolders []string          `json:"absentFolders"`
}

type program struct {
	Name string `json:"name"`
	Node int    `json:"node"`
	PID  int    `json:"pid"`
}

func (c *Cluster) plan(s state) plan.Plan {
	return plan.Plan{ID: c.id, Block: s.Block, Family: s.Family}
}

// load reads the state; there is none if no cluster was created.
func (c *Cluster) load() (state, bool, error) {
	text, err := os.ReadFile(c.paths.State())
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, false, nil
	}
	if err != nil {
		return state{}, false, err
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		// An unreadable file was not written completely: the cluster is incomplete.
		return state{}, false, nil
	}
	return s, true, nil
}

func (c *Cluster) save(s state) error {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(c.paths.State(), append(text, '\n'), 0o644)
}

// Up creates the cluster, or adds nodes to the running one, and returns when everything in it is
// ready. nodes 0 means two, or the current number; an empty family means IPv4, or the current one.
func (c *Cluster) Up(ctx context.Context, nodes int, family plan.Family) error {
	if nodes < 0 || nodes > plan.MaxNodes {
		return fmt.Errorf("%d nodes requested; 1 to %d are possible", nodes, plan.MaxNodes)
	}
	if err := c.paths.CheckLength(); err != nil {
		return err
	}
	current, known, err := c.load()
	if err != nil {
		return err
	}
	wanted := cmp.Or(family, current.Family, plan.IPv4)
	if err := host.Ready(ctx, wanted, c.say); err != nil {
		return err
	}
	images, err := c.Prepare(ctx)
	if err != nil {
		return err
	}
	if known {
		sick := c.unhealthy(ctx, current)
		if sick == nil {
			return c.grow(ctx, current, nodes, wanted, images)
		}
		c.say("the cluster is no longer running (%v); recreating it", sick)
		if nodes == 0 {
			nodes = current.Nodes
		}
	}
	if err := c.clean(ctx, keepLogs); err != nil {
		return fmt.Errorf("remove what is left of a cluster: %w", err)
	}
	if nodes == 0 {
		nodes = defaultNodes
	}
	return c.create(ctx, nodes, wanted, images)
}

// Prepare builds what is missing and returns the image archives that every node needs.
func (c *Cluster) Prepare(ctx context.Context) ([]string, error) {
	if err := c.builder.Programs(ctx); err != nil {
		return nil, err
	}
	if err := c.builder.Manifests(ctx); err != nil {
		return nil, err
	}
	return c.builder.SystemImages()
}

// unhealthy returns why an existing cluster cannot be used, or nil.
func (c *Cluster) unhealthy(ctx context.Context, s state) error {
	if len(s.Programs) == 0 {
		return errors.New("it was not started completely")
	}
	p := c.plan(s)
	for _, program := range s.Programs {
		if !host.Alive(program.PID, p.NodeSpace(program.Node)) {
			return fmt.Errorf("%s exited", program.Name)
		}
	}
	api, err := newAPI(c.paths, p.Server())
	if err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return api.readyz(short)
}

// grow adds nodes to a running cluster.
func (c *Cluster) grow(ctx context.Context, s state, nodes int, family plan.Family, images []string) error {
	if has := cmp.Or(s.Family, plan.IPv4); has != family {
		return fmt.Errorf("the cluster runs with the addresses %s; take it down before you ask for %s", has, family)
	}
	if nodes != 0 && nodes < s.Nodes {
		return fmt.Errorf("the cluster runs with %d nodes; take it down before you ask for %d", s.Nodes, nodes)
	}
	if nodes <= s.Nodes {
		c.say("the cluster is up (%d node(s), %s); KUBECONFIG=%s", s.Nodes, family, c.paths.Kubeconfig())
		return nil
	}
	r := c.newRun(s)
	for n := s.Nodes + 1; n <= nodes; n++ {
		if err := r.join(ctx, n, images); err != nil {
			return r.explain(fmt.Errorf("add node %d: %w", n, err))
		}
	}
	c.say("the cluster has %d nodes", nodes)
	return nil
}

// Load imports image archives into every node.
func (c *Cluster) Load(ctx context.Context, archives []string) error {
	s, known, err := c.load()
	if err != nil {
		return err
	}
	if !known {
		return errors.New("no cluster is up; make one first with `cluster up`")
	}
	for n := 1; n <= s.Nodes; n++ {
		if err := c.importImages(ctx, n, archives); err != nil {
			return err
		}
	}
	return nil
}

// Kubeconfig returns the path of the administrator's kubeconfig.
func (c *Cluster) Kubeconfig() (string, error) {
	if _, err := os.Stat(c.paths.Kubeconfig()); err != nil {
		return "", errors.New("no cluster is up; make one first with `cluster up`")
	}
	return c.paths.Kubeconfig(), nil
}

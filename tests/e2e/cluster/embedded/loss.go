package embedded

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"weft.dev/cluster/host"
	"weft.dev/cluster/plan"
	"weft.dev/cluster/render"
)

// Stop takes a node away as a loss of power or of its cable does, as far as all others can see: its link is down, its kubelet
// and its containerd are killed. What runs in its pods goes on and reaches nobody.
func (c *Cluster) Stop(ctx context.Context, name string) error {
	s, n, err := c.worker(name)
	if err != nil {
		return err
	}
	p := c.plan(s)
	if err := host.SetNodeLink(ctx, p, n, false); err != nil {
		return err
	}
	for _, program := range s.Programs {
		if slices.Contains(nodePrograms(n), program.Name) {
			if err := host.Kill(ctx, program.PID, p.NodeSpace(n)); err != nil {
				return fmt.Errorf("stop %s: %w", program.Name, err)
			}
		}
	}
	c.say("%s is cut off; it comes back with `cluster node start %s`", name, name)
	return nil
}

// Start brings a stopped node back and waits until it is ready.
func (c *Cluster) Start(ctx context.Context, name string) error {
	s, n, err := c.worker(name)
	if err != nil {
		return err
	}
	r := c.newRun(s)
	if err := host.SetNodeLink(ctx, r.plan, n, true); err != nil {
		return err
	}
	running := func(program program) bool {
		return !slices.Contains(nodePrograms(n), program.Name) || host.Alive(program.PID, r.plan.NodeSpace(n))
	}
	if slices.ContainsFunc(s.Programs, func(p program) bool { return !running(p) }) {
		r.state.Programs = slices.DeleteFunc(r.state.Programs, func(p program) bool {
			return slices.Contains(nodePrograms(n), p.Name)
		})
		if err := r.restart(ctx, n); err != nil {
			return r.explain(err)
		}
	}
	if err := r.waitReady(ctx); err != nil {
		return r.explain(err)
	}
	c.say("%s is back", name)
	return nil
}

// restart starts what Stop killed on node number n.
func (r *run) restart(ctx context.Context, n int) error {
	if err := r.startRuntime(ctx, n, nil); err != nil {
		return err
	}
	return r.startProgram(fmt.Sprintf("kubelet-%d", n), n, render.KubeletArgs(r.plan, r.paths, n))
}

// nodePrograms are what ends with node number n. Its kube-proxy is left: the rules that it wrote would stay without it too.
func nodePrograms(n int) []string {
	return []string{fmt.Sprintf("kubelet-%d", n), fmt.Sprintf("containerd-%d", n)}
}

// worker finds a node of the running cluster that can be taken away.
func (c *Cluster) worker(name string) (state, int, error) {
	s, known, err := c.load()
	if err != nil {
		return state{}, 0, err
	}
	if !known {
		return state{}, 0, fmt.Errorf("no cluster is up; make one first with `cluster up`")
	}
	var names []string
	for n := 2; n <= s.Nodes; n++ {
		if plan.NodeName(n) == name {
			return s, n, nil
		}
		names = append(names, plan.NodeName(n))
	}
	return state{}, 0, fmt.Errorf("%q is no node that can be taken away; there are: %s (%s runs the control plane)",
		name, strings.Join(names, ", "), plan.NodeName(1))
}

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

// Stop disconnects a node as a power or cable failure would, as seen by the others: its link is
// down, and its kubelet and containerd are killed. Its pods keep running without network.
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
	c.say("%s is stopped; start it with `cluster node start %s`", name, name)
	return nil
}

// Start reconnects a stopped node and waits until it is ready.
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
	c.say("%s is ready again", name)
	return nil
}

// restart starts the programs that Stop killed on node number n.
func (r *run) restart(ctx context.Context, n int) error {
	if err := r.startRuntime(ctx, n, nil); err != nil {
		return err
	}
	return r.startProgram(fmt.Sprintf("kubelet-%d", n), n, render.KubeletArgs(r.plan, r.paths, n))
}

// nodePrograms are the programs that Stop kills on node number n. kube-proxy is not one of them:
// its rules would remain without it.
func nodePrograms(n int) []string {
	return []string{fmt.Sprintf("kubelet-%d", n), fmt.Sprintf("containerd-%d", n)}
}

// worker returns a node of the running cluster that can be stopped.
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
	return state{}, 0, fmt.Errorf("%q is not a node that can be stopped; these are: %s (%s runs the control plane)",
		name, strings.Join(names, ", "), plan.NodeName(1))
}

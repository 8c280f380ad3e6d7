package provider

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"weft.dev/cluster/addons"
	"weft.dev/cluster/host"
	"weft.dev/cluster/plan"
	"weft.dev/cluster/versions"
)

// kindNodes is the number of nodes in kind.yaml.
const kindNodes = 2

// kindProvider is a cluster made by kind, whose nodes are Docker containers.
type kindProvider struct {
	Options
}

// kindUsable tells whether Docker runs and has kind's node image, or can download it.
func kindUsable(ctx context.Context) bool {
	if _, err := exec.LookPath("docker"); err != nil {
		return false
	}
	short, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := host.Run(short, "docker", "info"); err != nil {
		return false
	}
	if _, err := host.Run(short, "docker", "image", "inspect", versions.KindNodeImage); err == nil {
		return true
	}
	long, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	_, err := host.Run(long, "docker", "pull", versions.KindNodeImage)
	return err == nil
}

func (p *kindProvider) name() string { return strings.TrimSuffix(plan.Prefix(plan.ID(p.Root)), "-") }

func (p *kindProvider) kind(ctx context.Context, args ...string) (string, error) {
	if err := p.Builder.Kind(ctx); err != nil {
		return "", err
	}
	return host.Run(ctx, p.Builder.Bin("kind"), args...)
}

func (p *kindProvider) exists(ctx context.Context) (bool, error) {
	list, err := p.kind(ctx, "get", "clusters")
	if err != nil {
		return false, err
	}
	for name := range strings.FieldsSeq(list) {
		if name == p.name() {
			return true, nil
		}
	}
	return false, nil
}

func (p *kindProvider) Prepare(ctx context.Context) error {
	if err := p.Builder.Programs(ctx); err != nil {
		return err
	}
	return p.Builder.Manifests(ctx)
}

func (p *kindProvider) Create(ctx context.Context, nodes int) error {
	if err := p.refuseIPv6(KindTool); err != nil {
		return err
	}
	if nodes > kindNodes {
		return fmt.Errorf("%d nodes requested; with kind, add them to tests/e2e/cluster/kind.yaml, which has %d", nodes, kindNodes)
	}
	there, err := p.exists(ctx)
	if err != nil {
		return err
	}
	if there {
		p.Say("the kind cluster %s is up; KUBECONFIG=%s", p.name(), p.kubeconfig())
		_, err := p.kind(ctx, "export", "kubeconfig", "--name", p.name(), "--kubeconfig", p.kubeconfig())
		return err
	}
	if err := p.Prepare(ctx); err != nil {
		return err
	}
	if err := mark(p.Options, KindTool); err != nil {
		return err
	}
	config := filepath.Join(p.Root, "tests", "e2e", "cluster", "kind.yaml")
	_, err = p.kind(ctx, "create", "cluster", "--name", p.name(), "--config", config, "--image", versions.KindNodeImage,
		"--kubeconfig", p.kubeconfig(), "--wait", "120s")
	if err != nil {
		return err
	}
	return p.install(ctx)
}

// install adds what a kind cluster lacks. LoadBalancer addresses are of a range that only this host
// has a route to, through the node's address.
func (p *kindProvider) install(ctx context.Context) error {
	archives, err := p.Builder.SystemImages()
	if err != nil {
		return err
	}
	if err := p.Load(ctx, archives); err != nil {
		return err
	}
	used, err := host.PrefixesInUse(ctx)
	if err != nil {
		return err
	}
	chosen, err := plan.ChooseBlock(plan.ID(p.Root), plan.IPv4, used)
	if err != nil {
		return err
	}
	kubectl := addons.Kubectl{Program: p.Builder.Bin("kubectl"), Kubeconfig: p.kubeconfig()}
	if err := addons.Install(ctx, kubectl, p.Builder, chosen.LoadBalancers()); err != nil {
		return err
	}
	return p.route(ctx, chosen.LoadBalancers()[0])
}

// poolFile stores the range that the host has a route to.
func (p *kindProvider) poolFile() string { return filepath.Join(p.folder(), "pool") }

func (p *kindProvider) route(ctx context.Context, to netip.Prefix) error {
	const format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
	text, err := host.Run(ctx, "docker", "inspect", "--format", format, p.name()+"-control-plane")
	if err != nil {
		return err
	}
	node, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil {
		return fmt.Errorf("the address of kind's node: %w", err)
	}
	if err := os.WriteFile(p.poolFile(), []byte(to.String()), 0o644); err != nil {
		return err
	}
	if _, err := host.Run(ctx, "ip", "route", "replace", to.String(), "via", node.String()); err != nil {
		p.Say("LoadBalancer addresses cannot be reached from this host: %v", err)
	}
	return nil
}

func (p *kindProvider) Load(ctx context.Context, archives []string) error {
	for _, archive := range archives {
		if _, err := p.kind(ctx, "load", "image-archive", archive, "--name", p.name()); err != nil {
			return err
		}
	}
	return nil
}

func (p *kindProvider) Kubeconfig(context.Context) (string, error) { return needKubeconfig(p.Options) }

// Delete removes the cluster and the host's route to its LoadBalancer addresses.
func (p *kindProvider) Delete(ctx context.Context) error {
	if pool, err := os.ReadFile(p.poolFile()); err == nil {
		_, _ = host.Run(ctx, "ip", "route", "delete", strings.TrimSpace(string(pool))) // the route may not exist
	}
	if _, err := p.kind(ctx, "delete", "cluster", "--name", p.name(), "--kubeconfig", p.kubeconfig()); err != nil {
		return err
	}
	return os.RemoveAll(p.folder())
}

package provider

import (
	"context"

	"weft.dev/cluster/embedded"
)

// embeddedProvider runs a cluster as processes of this machine.
type embeddedProvider struct {
	Options
	cluster *embedded.Cluster
}

func (p *embeddedProvider) Prepare(ctx context.Context) error {
	_, err := p.cluster.Prepare(ctx)
	return err
}

func (p *embeddedProvider) Create(ctx context.Context, nodes int) error {
	// Marked first, so that an incomplete cluster is recognized as embedded.
	if err := mark(p.Options, Embedded); err != nil {
		return err
	}
	return p.cluster.Up(ctx, nodes, p.Family)
}

func (p *embeddedProvider) Load(ctx context.Context, archives []string) error {
	return p.cluster.Load(ctx, archives)
}

func (p *embeddedProvider) Kubeconfig(context.Context) (string, error) {
	return needKubeconfig(p.Options)
}

func (p *embeddedProvider) StopNode(ctx context.Context, name string) error {
	return p.cluster.Stop(ctx, name)
}

func (p *embeddedProvider) StartNode(ctx context.Context, name string) error {
	return p.cluster.Start(ctx, name)
}

func (p *embeddedProvider) Delete(ctx context.Context) error { return p.cluster.Down(ctx) }

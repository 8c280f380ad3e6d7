package provider

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// existingProvider uses the cluster that KUBECONFIG names. It installs and removes nothing.
type existingProvider struct {
	Options
}

func (p *existingProvider) Prepare(context.Context) error { return nil }

func (p *existingProvider) Create(context.Context, int) error {
	if err := p.refuseIPv6(Existing); err != nil {
		return err
	}
	from := os.Getenv("KUBECONFIG")
	if from == "" {
		return errors.New("E2E_CLUSTER=existing needs KUBECONFIG, the path of the cluster's kubeconfig")
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("KUBECONFIG: %w", err)
	}
	if err := mark(p.Options, Existing); err != nil {
		return err
	}
	return os.WriteFile(p.kubeconfig(), text, 0o600)
}

func (p *existingProvider) Load(_ context.Context, archives []string) error {
	p.Say("not loaded, since this is an existing cluster: push these images to a registry that its nodes can reach, or "+
		"import them on each node (ctr --namespace k8s.io images import FILE): %s", strings.Join(archives, " "))
	return nil
}

func (p *existingProvider) Kubeconfig(context.Context) (string, error) {
	return needKubeconfig(p.Options)
}

// Delete removes the reference to the cluster, which keeps running.
func (p *existingProvider) Delete(context.Context) error { return os.RemoveAll(p.folder()) }

// Package provider hides where a test cluster comes from behind four functions.
package provider

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"weft.dev/cluster/build"
	"weft.dev/cluster/embedded"
	"weft.dev/cluster/host"
	"weft.dev/cluster/plan"
)

// Provider is a source of one cluster.
type Provider interface {
	// Create makes the cluster, or does nothing when it runs. nodes 0 means the provider's choice.
	Create(ctx context.Context, nodes int) error
	// Load puts images into every node.
	Load(ctx context.Context, archives []string) error
	// Kubeconfig is the path of the administrator's kubeconfig, .cluster/kubeconfig.
	Kubeconfig(ctx context.Context) (string, error)
	// Delete removes the cluster.
	Delete(ctx context.Context) error
}

// Breakable is a cluster of which a node can be lost and found again.
type Breakable interface {
	StopNode(ctx context.Context, name string) error
	StartNode(ctx context.Context, name string) error
}

// Kind names a provider.
type Kind string

const (
	Embedded Kind = "embedded"
	KindTool Kind = "kind"
	Existing Kind = "existing"
)

// ParseKind parses the value of E2E_CLUSTER.
func ParseKind(text string) (Kind, error) {
	switch kind := Kind(text); kind {
	case Embedded, KindTool, Existing:
		return kind, nil
	}
	return "", fmt.Errorf("E2E_CLUSTER is %q; it may be embedded, kind or existing", text)
}

// Options is what every provider is made from.
type Options struct {
	Root    string
	Builder build.Builder
	// Family is the families of addresses of a cluster that is made; empty means that of a cluster that runs, else IPv4.
	Family plan.Family
	Say    func(format string, args ...any)
}

func (o Options) folder() string     { return filepath.Join(o.Root, ".cluster") }
func (o Options) marker() string     { return filepath.Join(o.folder(), "provider") }
func (o Options) kubeconfig() string { return filepath.Join(o.folder(), "kubeconfig") }

// refuseIPv6 is for providers that make no cluster of the family that was asked for.
func (o Options) refuseIPv6(kind Kind) error {
	if o.Family.HasIPv6() {
		return fmt.Errorf("FAMILY=%s needs the embedded cluster (E2E_CLUSTER=embedded); this one is %s", o.Family, kind)
	}
	return nil
}

// Choose picks the provider: what E2E_CLUSTER says, else what made the cluster that is there, else kind where it can work,
// else embedded, which alone has IPv6.
func Choose(ctx context.Context, o Options) (Provider, error) {
	made, err := readMarker(o)
	if err != nil {
		return nil, err
	}
	wanted := made
	if text := os.Getenv("E2E_CLUSTER"); text != "" {
		if wanted, err = ParseKind(text); err != nil {
			return nil, err
		}
	}
	if made != "" && wanted != made {
		return nil, fmt.Errorf("a cluster of the provider %s is there already; delete it first (E2E_CLUSTER=%s %s)", made, made, "cluster down")
	}
	if wanted == "" {
		wanted = Embedded
		if !o.Family.HasIPv6() && kindUsable(ctx) {
			wanted = KindTool
		}
	}
	switch wanted {
	case KindTool:
		return &kindProvider{o}, nil
	case Existing:
		return &existingProvider{o}, nil
	default:
		return &embeddedProvider{o, embedded.New(o.Root, o.Builder, o.Say)}, nil
	}
}

func readMarker(o Options) (Kind, error) {
	text, err := os.ReadFile(o.marker())
	if errors.Is(err, fs.ErrNotExist) {
		// An embedded cluster may outlive its folder.
		if len(host.Namespaces(plan.Prefix(plan.ID(o.Root)))) > 0 {
			return Embedded, nil
		}
		return "", nil
	}
	if err != nil {
		return "", err
	}
	kind, err := ParseKind(strings.TrimSpace(string(text)))
	if err != nil {
		return "", fmt.Errorf("%s: %w", o.marker(), err)
	}
	return kind, nil
}

// mark remembers which provider made the cluster.
func mark(o Options, kind Kind) error {
	if err := os.MkdirAll(o.folder(), 0o755); err != nil {
		return err
	}
	return os.WriteFile(o.marker(), []byte(kind+"\n"), 0o644)
}

// needKubeconfig is the fixed path of the kubeconfig, when the file is there.
func needKubeconfig(o Options) (string, error) {
	if _, err := os.Stat(o.kubeconfig()); err != nil {
		return "", errors.New("no cluster is up; make one first with `cluster up`")
	}
	return o.kubeconfig(), nil
}

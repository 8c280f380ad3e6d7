// Package provider hides how a test cluster is created behind one interface.
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

// Provider creates one cluster.
type Provider interface {
	// Prepare builds what Create needs.
	Prepare(ctx context.Context) error
	// Create creates the cluster, or does nothing if it runs. nodes 0 means the provider's default.
	Create(ctx context.Context, nodes int) error
	// Load imports images into every node.
	Load(ctx context.Context, archives []string) error
	// Kubeconfig returns the path of the administrator's kubeconfig, .cluster/kubeconfig.
	Kubeconfig(ctx context.Context) (string, error)
	// Delete removes the cluster.
	Delete(ctx context.Context) error
}

// Breakable is a cluster whose nodes can be stopped and started.
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

// Options are the settings of all providers.
type Options struct {
	Root    string
	Builder build.Builder
	// Family is the IP families of a new cluster; empty means those of the running cluster, else
	// IPv4.
	Family plan.Family
	Say    func(format string, args ...any)
}

func (o Options) folder() string     { return filepath.Join(o.Root, ".cluster") }
func (o Options) marker() string     { return filepath.Join(o.folder(), "provider") }
func (o Options) kubeconfig() string { return filepath.Join(o.folder(), "kubeconfig") }

// refuseIPv6 returns an error for providers that cannot create a cluster of the requested family.
func (o Options) refuseIPv6(kind Kind) error {
	if o.Family.HasIPv6() {
		return fmt.Errorf("FAMILY=%s needs the embedded cluster (E2E_CLUSTER=embedded); this one is %s", o.Family, kind)
	}
	return nil
}

// Choose returns the provider: the value of E2E_CLUSTER, else that of the existing cluster, else
// kind if it is usable, else embedded, the only one with IPv6.
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
		return nil, fmt.Errorf("a cluster of the provider %s already exists; delete it first (E2E_CLUSTER=%s %s)", made, made, "cluster down")
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
		// An embedded cluster may still run after its folder was removed.
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

// mark records which provider created the cluster.
func mark(o Options, kind Kind) error {
	if err := os.MkdirAll(o.folder(), 0o755); err != nil {
		return err
	}
	return os.WriteFile(o.marker(), []byte(kind+"\n"), 0o644)
}

// needKubeconfig returns the path of the kubeconfig; an error if the file does not exist.
func needKubeconfig(o Options) (string, error) {
	if _, err := os.Stat(o.kubeconfig()); err != nil {
		return "", errors.New("no cluster is up; make one first with `cluster up`")
	}
	return o.kubeconfig(), nil
}

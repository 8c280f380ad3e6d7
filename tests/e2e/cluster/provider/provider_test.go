package provider

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft.dev/cluster/build"
	"weft.dev/cluster/plan"
)

func options(t *testing.T) (Options, *strings.Builder) {
	t.Helper()
	said := &strings.Builder{}
	say := func(format string, args ...any) { fmt.Fprintf(said, format+"\n", args...) }
	root := t.TempDir()
	t.Setenv("PATH", "") // no docker
	t.Setenv("E2E_CLUSTER", "")
	return Options{Root: root, Builder: build.Builder{Root: root, Say: say}, Say: say}, said
}

func TestChooseWithoutDockerReturnsEmbedded(t *testing.T) {
	o, _ := options(t)
	chosen, err := Choose(context.Background(), o)
	if _, ok := chosen.(*embeddedProvider); !ok || err != nil {
		t.Errorf("got %T, %v", chosen, err)
	}
}

func TestChooseUsesE2ECluster(t *testing.T) {
	o, _ := options(t)
	t.Setenv("E2E_CLUSTER", "kind")
	chosen, err := Choose(context.Background(), o)
	if _, ok := chosen.(*kindProvider); !ok || err != nil {
		t.Errorf("got %T, %v", chosen, err)
	}
	t.Setenv("E2E_CLUSTER", "cloud")
	if _, err := Choose(context.Background(), o); err == nil || !strings.Contains(err.Error(), "cloud") {
		t.Errorf("an unknown provider gave %v", err)
	}
}

func TestChooseKeepsProviderOfRunningCluster(t *testing.T) {
	o, _ := options(t)
	if err := mark(o, KindTool); err != nil {
		t.Fatal(err)
	}
	chosen, err := Choose(context.Background(), o)
	if _, ok := chosen.(*kindProvider); !ok || err != nil {
		t.Errorf("got %T, %v", chosen, err)
	}
	t.Setenv("E2E_CLUSTER", "embedded")
	if _, err := Choose(context.Background(), o); err == nil {
		t.Error("a second cluster was allowed")
	}
}

func TestExistingProviderUsesKubeconfig(t *testing.T) {
	o, said := options(t)
	t.Setenv("E2E_CLUSTER", "existing")
	t.Setenv("KUBECONFIG", "")
	ctx := context.Background()
	chosen, err := Choose(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := chosen.Create(ctx, 0); err == nil || !strings.Contains(err.Error(), "KUBECONFIG") {
		t.Errorf("without KUBECONFIG: %v", err)
	}
	theirs := filepath.Join(t.TempDir(), "theirs")
	if err := os.WriteFile(theirs, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", theirs)
	if err := chosen.Create(ctx, 0); err != nil {
		t.Fatal(err)
	}
	path, err := chosen.Kubeconfig(ctx)
	if text, _ := os.ReadFile(path); err != nil || string(text) != "theirs" {
		t.Errorf("%s holds %q, %v", path, text, err)
	}
	if err := chosen.Load(ctx, []string{"a.tar"}); err != nil || !strings.Contains(said.String(), "a.tar") {
		t.Errorf("load: %v, said %q", err, said)
	}
	if err := chosen.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Error("the existing cluster's kubeconfig was removed")
	}
	if _, err := chosen.Kubeconfig(ctx); err == nil {
		t.Error("a deleted cluster still has a kubeconfig")
	}
}

func TestOnlyEmbeddedProviderSupportsIPv6(t *testing.T) {
	for family, refused := range map[plan.Family]bool{"": false, plan.IPv4: false, plan.Dual: true, plan.IPv6: true} {
		o, _ := options(t)
		o.Family = family
		err := o.refuseIPv6(KindTool)
		if (err != nil) != refused || refused && !strings.Contains(err.Error(), "E2E_CLUSTER=embedded") {
			t.Errorf("%q: %v", family, err)
		}
		if chosen, err := Choose(context.Background(), o); err != nil {
			t.Error(err)
		} else if embedded, ok := chosen.(*embeddedProvider); !ok || embedded.Family != family {
			t.Errorf("%q is made by %T", family, chosen)
		}
		// More nodes than kind.yaml has, so that an accepted family is rejected for that reason and
		// no cluster is created.
		err = (&kindProvider{o}).Create(context.Background(), kindNodes+1)
		if err == nil || strings.Contains(err.Error(), "FAMILY=") != refused {
			t.Errorf("%q: %v", family, err)
		}
	}
}

package embedded

import (
	"context"
	"strings"
	"testing"

	"weft.dev/cluster/build"
	"weft.dev/cluster/plan"
)

func TestRunningClusterRejectsAnotherFamily(t *testing.T) {
	root := t.TempDir()
	cluster := New(root, build.Builder{Root: root}, t.Logf)
	for _, s := range []state{{Nodes: 2, Family: plan.Dual}, {Nodes: 2, Family: plan.IPv4}, {Nodes: 2}} {
		has := s.Family
		if has == "" {
			has = plan.IPv4 // a state without the field
		}
		if err := cluster.grow(context.Background(), s, 0, has, nil); err != nil {
			t.Errorf("%q: %v", s.Family, err)
		}
		err := cluster.grow(context.Background(), s, 0, plan.IPv6, nil)
		if err == nil || !strings.Contains(err.Error(), "take it down") {
			t.Errorf("%q: %v", s.Family, err)
		}
	}
}

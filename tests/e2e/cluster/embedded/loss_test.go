package embedded

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"weft.dev/cluster/build"
)

func TestOnlyWorkersCanBeStopped(t *testing.T) {
	root := t.TempDir()
	cluster := New(root, build.Builder{Root: root}, t.Logf)
	if _, _, err := cluster.worker("node2"); err == nil || !strings.Contains(err.Error(), "no cluster") {
		t.Errorf("without a cluster: %v", err)
	}
	if err := os.MkdirAll(cluster.paths.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cluster.paths.Root, "state.json"), []byte(`{"nodes": 3}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, n, err := cluster.worker("node3"); err != nil || n != 3 {
		t.Errorf("node3 is %d, %v", n, err)
	}
	for _, name := range []string{"node1", "node4", "node", ""} {
		if _, _, err := cluster.worker(name); err == nil || !strings.Contains(err.Error(), "node2, node3") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

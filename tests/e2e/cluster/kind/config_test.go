// Package kind checks the project's kind.yaml with kind's own code.
package kind

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/kind/pkg/cluster"
)

const config = "../kind.yaml"

// engine is a fake Docker. With it kind gets as far as validating its configuration on a machine
// without Docker, and creates no cluster on a machine with it: it lists no clusters and runs no
// containers.
const engine = `#!/bin/sh
case "$1" in
  info) echo '{"CgroupVersion":"2"}' ;;
  ps|inspect) ;;
  *) echo "no container is made in this test: $*" >&2; exit 1 ;;
esac
`

// create makes kind create a cluster from a configuration file and returns its error.
func create(t *testing.T, file string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(engine), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	provider := cluster.NewProvider(cluster.ProviderWithDocker())
	err := provider.Create("weft-config-test", cluster.CreateWithConfigFile(file), cluster.CreateWithKubeconfigPath(filepath.Join(dir, "kubeconfig")))
	if err == nil {
		t.Fatal("kind created a cluster without a container engine")
	}
	return err.Error()
}

// kind reads the file, validates it, and then needs an engine: an error from the engine means that
// the configuration is valid.
func TestKindAcceptsProjectConfig(t *testing.T) {
	said := create(t, config)
	if strings.Contains(said, "config") || !strings.Contains(said, "docker") {
		t.Errorf("kind rejects %s: %s", config, said)
	}
}

func TestKindRejectsInvalidConfigs(t *testing.T) {
	ours, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]struct{ text, complaint string }{
		"an unknown field": {string(ours) + "unknown: true\n", "unknown"},
		"a wrong family":   {strings.Replace(string(ours), "ipFamily: ipv4", "ipFamily: ipv5", 1), "ipFamily"},
		"no control plane": {strings.Replace(string(ours), "role: control-plane", "role: worker", 1), "control-plane"},
	} {
		if broken.text == string(ours) {
			t.Errorf("%s: the configuration was not changed", name)
			continue
		}
		file := filepath.Join(t.TempDir(), "kind.yaml")
		if err := os.WriteFile(file, []byte(broken.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if said := create(t, file); !strings.Contains(said, broken.complaint) {
			t.Errorf("%s: the error of kind is %q, it should contain %q", name, said, broken.complaint)
		}
	}
}

package versions

import (
	"os"
	"strings"
	"testing"
)

func TestModulesAgree(t *testing.T) {
	for file, lines := range map[string][]string{
		"../programs/go.mod": {
			"k8s.io/kubernetes v" + Kubernetes,
			"github.com/coredns/coredns " + CoreDNS,
			"helm.sh/helm/v4 " + Helm,
		},
		"../../conformance/go.mod":          {"sigs.k8s.io/gateway-api " + GatewayAPI},
		"../../conformance/previous/go.mod": {"sigs.k8s.io/gateway-api/conformance " + GatewayAPIPrevious},
		"../kind/go.mod":                    {"sigs.k8s.io/kind " + Kind},
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, line := range lines {
			if !strings.Contains(string(text), line) {
				t.Errorf("%s does not require %q, which versions.go names", file, line)
			}
		}
	}
}

package main

import (
	"context"
	"strings"
	"testing"
)

func TestUpRejectsUnknownFamily(t *testing.T) {
	t.Setenv("E2E_CLUSTER", "existing") // so that a failing test creates no cluster
	t.Setenv("KUBECONFIG", "")
	up := func(args ...string) string {
		err := run(context.Background(), append([]string{"--root", t.TempDir(), "up"}, args...))
		if err == nil {
			t.Fatalf("%v made a cluster", args)
		}
		return err.Error()
	}
	if said := up("--family", "ipv5"); !strings.Contains(said, `"ipv5"`) || !strings.Contains(said, "ipv4, dual or ipv6") {
		t.Errorf("--family ipv5: %s", said)
	}
	t.Setenv("FAMILY", "both")
	if said := up(); !strings.Contains(said, `"both"`) {
		t.Errorf("FAMILY=both: %s", said)
	}
	if said := up("--family", "dual"); !strings.Contains(said, "dual needs the embedded cluster") {
		t.Errorf("the flag does not override the variable: %s", said)
	}
}

// Package previous runs the official suite of the previous Gateway API version against the cluster of
// KUBECONFIG.
//
// `run` in the folder above builds it, passes its flags, and prints the number of passed and failed
// tests.
package previous

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) { conformance.RunConformance(t) }

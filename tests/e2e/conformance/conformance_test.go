// Package conformance runs the official Gateway API suite against the cluster of KUBECONFIG.
//
// `run` in this folder builds it, passes its flags, and prints the number of passed and failed
// tests.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) { conformance.RunConformance(t) }

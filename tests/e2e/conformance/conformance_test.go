// Package conformance runs the official Gateway API suite against the cluster that KUBECONFIG names.
//
// `run` in this folder builds it, gives it its flags and counts what it did.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) { conformance.RunConformance(t) }

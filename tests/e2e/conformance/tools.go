//go:build tools

package conformance

// The image echo-basic, which the suite's manifests run, is built from this package.
import _ "sigs.k8s.io/gateway-api-conformance-images/echo-basic"

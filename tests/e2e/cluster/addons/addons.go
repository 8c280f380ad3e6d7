// Package addons installs what every test cluster needs with any provider: the Gateway API's CRDs
// and LoadBalancer addresses.
package addons

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"weft.dev/cluster/build"
	"weft.dev/cluster/host"
	"weft.dev/cluster/manifests"
)

// Kubectl runs kubectl against one cluster.
type Kubectl struct {
	Program    string
	Kubeconfig string
}

// Run runs one command.
func (k Kubectl) Run(ctx context.Context, input []byte, args ...string) error {
	_, err := host.RunInput(ctx, input, k.Program, append([]string{"--kubeconfig=" + k.Kubeconfig}, args...)...)
	return err
}

// Apply applies manifests server-side: the Gateway API's CRDs are too large for the annotation that
// client-side apply writes.
func (k Kubectl) Apply(ctx context.Context, text []byte) error {
	return k.Run(ctx, text, "apply", "--server-side", "--force-conflicts", "-f", "-")
}

// Install installs the CRDs of MetalLB and of the Gateway API, MetalLB's controller and its address
// ranges.
func Install(ctx context.Context, kubectl Kubectl, builder build.Builder, pool []netip.Prefix) error {
	controller, err := manifests.MetalLB()
	if err != nil {
		return err
	}
	addresses, err := manifests.Pool(pool)
	if err != nil {
		return err
	}
	metallb, err := os.ReadFile(builder.Manifest("metallb-crds.yaml"))
	if err != nil {
		return err
	}
	gatewayAPI, err := os.ReadFile(builder.Manifest("gateway-api.yaml"))
	if err != nil {
		return err
	}
	// The CRDs go first: MetalLB's controller exits if its own are missing.
	for _, text := range [][]byte{metallb, controller, gatewayAPI} {
		if err := kubectl.Apply(ctx, text); err != nil {
			return err
		}
	}
	if err := kubectl.Run(ctx, nil, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"); err != nil {
		return fmt.Errorf("the API server does not take up the new kinds: %w", err)
	}
	return kubectl.Apply(ctx, addresses)
}

//go:build tools

// Package programs requires the modules of the programs that are built without changes.
package programs

import (
	_ "helm.sh/helm/v4/cmd/helm"
)

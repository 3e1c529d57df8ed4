// SPDX-License-Identifier: Apache-2.0

// Command sidecar is an xDS-compatible service-mesh data plane: it takes the bootstrap file and the flags of Envoy.
package main

import (
	"os"

	"sidecar/internal/app"
	"sidecar/internal/demo"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "demo" {
		os.Exit(demo.Main(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(app.Main(os.Args[1:], os.Stdout, os.Stderr))
}

// SPDX-License-Identifier: Apache-2.0

// Command sidecar is an xDS-compatible service-mesh data plane: it takes the bootstrap file and the flags of Envoy.
package main

import (
	"os"

	"sidecar/internal/app"
)

func main() { os.Exit(app.Main(os.Args[1:], os.Stdout, os.Stderr)) }

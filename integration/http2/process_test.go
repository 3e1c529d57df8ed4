// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"os"
	"path/filepath"
	"testing"

	"sidecar/integration/proc"
)

// envoy tells that the program under test is Envoy: what it answers is shown, and what only holds for ours is not asked for.
var envoy = filepath.Base(proc.Binary) == "envoy"

const patience = proc.Patience

func TestMain(m *testing.M) {
	if code, played := play(); played {
		os.Exit(code)
	}
	proc.Run(m, makeCerts)
}

// proxy is one running process.
type proxy struct {
	*proc.Proxy
	told map[string]int // lines of access logs that logged returned, by file and key
}

// start runs the program until it is live, with two workers unless args say otherwise.
func start(t *testing.T, config string, args ...string) *proxy {
	t.Helper()
	if len(args) == 0 {
		args = []string{"--concurrency", "2"}
	}
	return &proxy{Proxy: proc.Start(t, config, append(args, "--use-dynamic-base-id", "--file-flush-interval-msec", "50")...)}
}

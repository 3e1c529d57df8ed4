// SPDX-License-Identifier: Apache-2.0

package resolve_test

import (
	"testing"
	"time"

	"sidecar/internal/resolve"
	"sidecar/xds/compile/cluster"
)

// The compiled form of a cluster's DNS settings converts to Options field by field; the compiler proves it.
func TestOptions_WhenAClusterIsCompiled_ThenItsSettingsConvert(t *testing.T) {
	o := resolve.Options(cluster.DNSOptions{Family: resolve.V4Only, Refresh: time.Second, RespectTTL: true})
	if o.Family != resolve.V4Only || o.Refresh != time.Second || !o.RespectTTL {
		t.Errorf("%+v", o)
	}
}

// SPDX-License-Identifier: Apache-2.0

package httpfilter

import (
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/filters/http/ondemand"
	"sidecar/xds/registry"
)

// OnDemand compiles envoy.filters.http.on_demand.
func OnDemand(*registry.Ctx, proto.Message, int) (filter.Factory, error) {
	return ondemand.Filter{}, nil
}

// SPDX-License-Identifier: Apache-2.0

package lbpolicy

import (
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"sidecar/dataplane/lb"
	"sidecar/xds/registry"
)

var schema = registry.MustSchema(Messages, Shared)

func compile(t *testing.T, policies ...string) (lb.Spec, *registry.Report, error) {
	t.Helper()
	var list []string
	for _, p := range policies {
		list = append(list, `{"typed_extension_config":{"name":"n","typed_config":{"@type":"type.googleapis.com/envoy.extensions.load_balancing_policies.`+p+`}}}`)
	}
	cl := &clusterv3.Cluster{}
	if err := protojson.Unmarshal([]byte(`{"load_balancing_policy":{"policies":[`+strings.Join(list, ",")+`]}}`), cl); err != nil {
		t.Fatal(err)
	}
	rep := &registry.Report{}
	s, err := Compile(&registry.Ctx{Report: rep, Schema: schema, Unknown: registry.UnknownRefuse}, cl)
	return s, rep, err
}

const at = "load_balancing_policy.policies[0].typed_extension_config.typed_config"

func TestCompile_WhenAPolicyCannotBeHonoured_ThenTheErrorNamesTheField(t *testing.T) {
	inner := func(s string) string {
		return `wrr_locality.v3.WrrLocality","endpoint_picking_policy":{"policies":[{"typed_extension_config":{"name":"i","typed_config":{"@type":"type.googleapis.com/envoy.extensions.load_balancing_policies.` + s + `"}}}]}`
	}
	for _, c := range []struct{ policy, want string }{
		{`ring_hash.v3.RingHash","minimum_ring_size":"9","maximum_ring_size":"3"`, at + ": ring hash: minimum_ring_size (9) > maximum_ring_size (3)"},
		{`maglev.v3.Maglev","table_size":"4"`, at + ": the table size of maglev must be a prime"},
		{`maglev.v3.Maglev","consistent_hashing_lb_config":{"hash_policy":[{"header":{"header_name":"x"}}]}`, at + ".consistent_hashing_lb_config.hash_policy: give the hash policy in the route"},
		{`maglev.v3.Maglev","consistent_hashing_lb_config":{"hash_balance_factor":50}`, "hash_balance_factor"},
		{`least_request.v3.LeastRequest","enable_full_scan":true`, at + ".enable_full_scan: deprecated"},
		{`least_request.v3.LeastRequest","choice_count":1`, at + ".choice_count"},
		{inner("ring_hash.v3.RingHash"), at + ".endpoint_picking_policy: RING_HASH cannot be combined"},
		{inner("wrr_locality.v3.WrrLocality"), "unknown type"},
	} {
		if _, _, err := compile(t, c.policy); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.policy, err, c.want)
		}
	}
}

func TestCompile_WhenZoneAwareIsAsked_ThenAWarning(t *testing.T) {
	s, rep, err := compile(t, `round_robin.v3.RoundRobin","locality_lb_config":{"zone_aware_lb_config":{"fail_traffic_on_panic":true,"routing_enabled":{"value":50}}}`)
	if err != nil || !s.Hosts.FailOnPanic || len(rep.Warnings) != 1 || rep.Warnings[0].Path != at+".locality_lb_config.zone_aware_lb_config.routing_enabled" {
		t.Errorf("%+v %v %v", s, rep.Warnings, err)
	}
}

func TestCompile_WhenFullScanIsAsked_ThenItIsTaken(t *testing.T) {
	s, _, err := compile(t, `least_request.v3.LeastRequest","selection_method":"FULL_SCAN","choice_count":3`)
	if err != nil || !s.FullScan || s.ChoiceCount != 3 {
		t.Errorf("%+v %v", s, err)
	}
}

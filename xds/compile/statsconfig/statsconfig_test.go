// SPDX-License-Identifier: Apache-2.0

package statsconfig

import (
	"strings"
	"testing"

	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"sidecar/internal/telemetry/stats"
	"sidecar/xds/registry"
)

func compile(t *testing.T, js string) (*stats.Tags, stats.Config, error) {
	in := &metricsv3.StatsConfig{}
	if err := protojson.Unmarshal([]byte(js), in); err != nil {
		t.Fatal(err)
	}
	return Compile(&registry.Ctx{Path: "stats_config", Report: &registry.Report{}}, in, []stats.Tag{{Name: "zone", Value: "z"}})
}

func TestCompile_WhenMatchersAreGiven_ThenOnlyThoseNamesExist(t *testing.T) {
	for _, tc := range []struct {
		name, js string
		want     map[string]bool
	}{
		{"none", `{}`, map[string]bool{"a": true}},
		{"reject all", `{"stats_matcher":{"reject_all":true}}`, map[string]bool{"a": false}},
		{"inclusion", `{"stats_matcher":{"inclusion_list":{"patterns":[{"prefix":"server"},{"suffix":"allowed"},{"safe_regex":{"regex":"vhost\\..*\\.x"}}]}}}`,
			map[string]bool{"server.live": true, "rbac.allowed": true, "vhost.a.x": true, "vhost.a.xy": false, "cluster.a": false}},
		{"exclusion", `{"stats_matcher":{"exclusion_list":{"patterns":[{"prefix":"server"}]}}}`, map[string]bool{"server.live": false, "cluster.a": true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, cfg, err := compile(t, tc.js)
			if err != nil {
				t.Fatal(err)
			}
			for n, want := range tc.want {
				if got := cfg.Allow == nil || cfg.Allow(n); got != want {
					t.Errorf("%s: %v, want %v", n, got, want)
				}
			}
		})
	}
}

func TestCompile_WhenTagsAreGiven_ThenTheyAreCutOutOfNames(t *testing.T) {
	tags, _, err := compile(t, `{"use_all_default_tags":false,"stats_tags":[{"tag_name":"cluster_name","regex":"^cluster(\\.(.+);)"},{"tag_name":"v","fixed_value":"1"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	name, got := tags.Extract("cluster.xds-grpc;.upstream_cx_total")
	if name != "cluster.upstream_cx_total" || len(got) != 3 || got[2] != (stats.Tag{Name: "cluster_name", Value: "xds-grpc"}) {
		t.Errorf("%s %v", name, got)
	}
}

func TestCompile_WhenSomethingIsWrong_ThenEveryFaultHasItsPath(t *testing.T) {
	_, _, err := compile(t, `{"stats_tags":[{"tag_name":"x","regex":"("}],"stats_matcher":{"inclusion_list":{"patterns":[{"prefix":""}]}},
		"histogram_bucket_settings":[{"match":{"prefix":"a"},"buckets":[2,1]}]}`)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"stats_config.stats_tags[0]: x: invalid regex", "stats_config.stats_matcher.inclusion_list.patterns[0]", "stats_config.histogram_bucket_settings[0].buckets"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q not in %v", want, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package statsconfig compiles envoy.config.metrics.v3.StatsConfig of the bootstrap: which stats exist, how tags are cut out of their names, which
// buckets histograms have.
package statsconfig

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"sidecar/dataplane/match"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/compile/matcher"
	"sidecar/xds/registry"
)

// Compile turns a stats_config into what a stats view needs; nil means Envoy's defaults. fixed are further tags with constant values
// (--stats-tag). The error joins every fault, each with its path below c.
func Compile(c *registry.Ctx, in *metricsv3.StatsConfig, fixed []stats.Tag) (*stats.Tags, stats.Config, error) {
	var errs []error
	var out stats.Config
	tags := stats.TagsConfig{UseDefaults: true, Fixed: slices.Clone(fixed)}
	if v := in.GetUseAllDefaultTags(); v != nil {
		tags.UseDefaults = v.GetValue()
	}
	for i, t := range in.GetStatsTags() {
		if v, ok := t.GetTagValue().(*metricsv3.TagSpecifier_FixedValue); ok {
			if t.GetTagName() == "" {
				errs = append(errs, c.Errorf(registry.Path("").Index("stats_tags", i).Field("tag_name"), "is required with fixed_value"))
			}
			tags.Fixed = append(tags.Fixed, stats.Tag{Name: t.GetTagName(), Value: v.FixedValue})
			continue
		}
		rule := stats.TagRule{Name: t.GetTagName(), Regex: t.GetRegex()}
		if _, err := stats.NewTags(stats.TagsConfig{Rules: []stats.TagRule{rule}}); err != nil { // alone, so that every bad one is told
			errs = append(errs, c.Errorf(registry.Path("").Index("stats_tags", i), "%s", strings.TrimPrefix(err.Error(), "stats_tags[0]: ")))
			continue
		}
		tags.Rules = append(tags.Rules, rule)
	}
	compiled, err := stats.NewTags(tags)
	if err != nil {
		errs = append(errs, c.Errorf("", "%w", err))
	}
	if out.Allow, err = allow(c, in.GetStatsMatcher()); err != nil {
		errs = append(errs, err)
	}
	for i, b := range in.GetHistogramBucketSettings() {
		at := registry.Path("").Index("histogram_bucket_settings", i)
		m, err := matcher.String(c, at.Field("match"), b.GetMatch())
		if err == nil && !ascending(b.GetBuckets()) {
			err = c.Errorf(at.Field("buckets"), "must be positive and ascending")
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out.Buckets = append(out.Buckets, stats.BucketRule{Match: m.MatchString, Bounds: b.GetBuckets()})
	}
	return compiled, out, errors.Join(errs...)
}

func ascending(b []float64) bool {
	for i, v := range b {
		if v <= 0 || i > 0 && v <= b[i-1] {
			return false
		}
	}
	return len(b) > 0
}

// allow compiles a StatsMatcher; nil allows every name.
func allow(c *registry.Ctx, in *metricsv3.StatsMatcher) (func(string) bool, error) {
	switch m := in.GetStatsMatcher().(type) {
	case *metricsv3.StatsMatcher_RejectAll:
		if m.RejectAll {
			return func(string) bool { return false }, nil
		}
		return nil, nil
	case *metricsv3.StatsMatcher_InclusionList:
		return list(c, "stats_matcher.inclusion_list", m.InclusionList, true)
	case *metricsv3.StatsMatcher_ExclusionList:
		return list(c, "stats_matcher.exclusion_list", m.ExclusionList, false)
	case nil:
		return nil, nil
	}
	return nil, c.Errorf("stats_matcher", "%s is not supported", fmt.Sprintf("%T", in.GetStatsMatcher()))
}

func list(c *registry.Ctx, at registry.Path, in *matcherv3.ListStringMatcher, include bool) (func(string) bool, error) {
	var errs []error
	var ms []match.String
	for i, p := range in.GetPatterns() {
		m, err := matcher.String(c, at.Index("patterns", i), p)
		errs = append(errs, err)
		ms = append(ms, m)
	}
	return func(name string) bool {
		return slices.ContainsFunc(ms, func(m match.String) bool { return m.MatchString(name) }) == include
	}, errors.Join(errs...)
}

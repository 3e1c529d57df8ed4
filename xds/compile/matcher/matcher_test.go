// SPDX-License-Identifier: Apache-2.0

package matcher

import (
	"net/netip"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/xds/registry"
)

// TestValue_WhenItIsWrong_ThenThePathIsNamed also covers string and regex errors below it.
func TestValue_WhenItIsWrong_ThenThePathIsNamed(t *testing.T) {
	deep := `{"null_match":{}}`
	for range maxValueDepth + 1 {
		deep = `{"list_match":{"one_of":` + deep + `}}`
	}
	for config, want := range map[string]string{
		`{}`:                               "res.value.match_pattern: is required",
		`{"double_match":{}}`:              "res.value.double_match.match_pattern: is required",
		`{"list_match":{}}`:                "res.value.list_match: one_of is required",
		`{"string_match":{}}`:              "res.value.string_match.match_pattern: is required",
		`{"double_match":{"exact":"NaN"}}`: "res.value.double_match: is not a number",
		`{"or_match":{"value_matchers":[{"null_match":{}},{"string_match":{"safe_regex":{"regex":"["}}}]}}`: "res.value.or_match.value_matchers[1].string_match.safe_regex.regex: missing ]",
		`{"string_match":{"prefix":""}}`: "res.value.string_match: value length must be at least 1",
		deep:                             "nested too deeply (limit 16)",
	} {
		m := &matcherv3.ValueMatcher{}
		if err := protojson.Unmarshal([]byte(config), m); err != nil {
			t.Fatal(err)
		}
		c := &registry.Ctx{Path: "res", Report: &registry.Report{}}
		if _, err := Value(c, "value", m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", config, err, want)
		}
	}
}

func TestMatchers_WhenMessagesAreNil_ThenTheyAreRefusedWithoutPanic(t *testing.T) {
	c := &registry.Ctx{Report: &registry.Report{}}
	for name, compile := range map[string]func() error{
		"header":   func() error { _, err := Header(c, "f", nil); return err },
		"string":   func() error { _, err := String(c, "f", nil); return err },
		"regex":    func() error { _, err := Regex(c, "f", nil); return err },
		"rewrite":  func() error { _, _, err := Substitute(c, "f", nil); return err },
		"query":    func() error { _, err := Query(c, "f", nil); return err },
		"cookie":   func() error { _, err := Cookie(c, "f", nil); return err },
		"metadata": func() error { _, err := Metadata(c, "f", nil); return err },
		"state":    func() error { _, err := FilterState(c, "f", nil); return err },
		"fraction": func() error { _, err := RuntimeFraction(c, "f", nil); return err },
		"bad regex": func() error {
			_, err := Header(c, "f", &routev3.HeaderMatcher{Name: "a", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{}})
			return err
		},
	} {
		if err := compile(); err == nil || !strings.HasPrefix(err.Error(), "f") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCIDRs_WhenRangesAreGiven_ThenHostBitsAreCleared(t *testing.T) {
	c := &registry.Ctx{}
	p, err := CIDRs(c, "ranges", []*corev3.CidrRange{{AddressPrefix: "10.1.2.3", PrefixLen: wrapperspb.UInt32(8)}, {AddressPrefix: "::1"}})
	if err != nil || p[0] != netip.MustParsePrefix("10.0.0.0/8") || p[1] != netip.MustParsePrefix("::/0") {
		t.Errorf("got %v, %v", p, err)
	}
	if _, err := CIDRs(c, "ranges", []*corev3.CidrRange{{AddressPrefix: "x"}}); err == nil || err.Error() != "ranges[0].address_prefix: malformed IP address: x" {
		t.Errorf("got %v", err)
	}
}

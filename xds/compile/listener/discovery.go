// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/filter"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// DiscoveredFilter is an HTTP filter whose configuration comes over ECDS. Equal ones of different listeners and versions have the same Key and Filter,
// so that connections which outlive a version follow too.
type DiscoveredFilter struct {
	Key          string
	Filter       *filter.Dynamic
	Name         string // of the filter and of its configuration
	Source       *corev3.ConfigSource
	FetchTimeout time.Duration
	Types        []string // full names of the messages that it may be configured with
	// Default is in force while there is no other configuration; nil = none.
	Default filter.Factory
	// Unwarmed (apply_default_config_without_warming): the listener does not wait.
	Unwarmed bool
}

// Fits tells why a configuration of a type is of no use for the filter.
func (d *DiscoveredFilter) Fits(message string) error {
	if slices.Contains(d.Types, message) {
		return nil
	}
	return fmt.Errorf("Error: filter config has type URL %s but expect %s.", message, strings.Join(d.Types, ", "))
}

// discovered compiles config_discovery at c; nil means that it is refused.
func (s *state) discovered(c *registry.Ctx, name string, d *corev3.ExtensionConfigSource) *filter.Dynamic {
	w := DiscoveredFilter{Key: fmt.Sprintf("%s/%x", name, resource.HashOf(d)), Name: name, Source: d.GetConfigSource(),
		FetchTimeout: fetchTimeout(d.GetConfigSource()), Unwarmed: d.GetApplyDefaultConfigWithoutWarming()}
	before := len(s.errs)
	for i, url := range d.GetTypeUrls() {
		message := messageOf(url)
		w.Types = append(w.Types, message)
		row, ok := HTTPFilters.Lookup(url)
		switch at := registry.Path("").Index("type_urls", i); {
		case !ok:
			s.fail(c.Errorf(at, "Error: no factory found for a required type URL %s.", message))
		case row.Name == routerName:
			s.fail(c.Errorf(at, "the router cannot be discovered"))
		}
	}
	if def := d.GetDefaultConfig(); def != nil {
		f, message, err := compileExtension(c, "default_config", name, def)
		if err == nil {
			err = w.Fits(message)
			if err != nil {
				err = c.Errorf("default_config", "%w", err)
			}
		}
		s.fail(err)
		w.Default = f
	} else if w.Unwarmed {
		s.fail(c.Errorf("apply_default_config_without_warming", "Error: filter config %s applied without warming but has no default config.", name))
	}
	if len(s.errs) > before {
		return nil
	}
	for i := range s.out.Filters {
		if s.out.Filters[i].Key == w.Key {
			return s.out.Filters[i].Filter
		}
	}
	if w.Filter = s.env.Discovered(w.Key); w.Filter == nil {
		w.Filter = filter.NewDynamic()
		w.Filter.Set(w.Default)
	}
	s.out.Filters = append(s.out.Filters, w)
	return w.Filter
}

// messageOf is the full name of the message that a type URL stands for.
func messageOf(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

// Extension compiles the configuration of a discovered filter; message is the full name of what it holds. c.Env must be *Env.
func Extension(c *registry.Ctx, x *corev3.TypedExtensionConfig) (f filter.Factory, message string, err error) {
	return compileExtension(c, "typed_config", x.GetName(), x.GetTypedConfig())
}

// compileExtension also returns the type of what cannot be compiled.
func compileExtension(c *registry.Ctx, field registry.Path, name string, cfg *anypb.Any) (f filter.Factory, message string, err error) {
	if url, _, err := registry.Unwrap(cfg); err == nil {
		message = messageOf(url)
	}
	x, err := HTTPFilters.Compile(c, field, name, cfg)
	if err != nil {
		return nil, message, err
	}
	f, ok := x.Config.(filter.Factory)
	if !ok {
		return nil, message, c.Errorf(field, "the router cannot be discovered")
	}
	return f, message, nil
}

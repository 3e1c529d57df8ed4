// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/filter"
	"sidecar/dataplane/snapshot"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// DiscoveredKind is the kind of a filter whose configuration comes over ECDS.
type DiscoveredKind uint8

// The kinds.
const (
	DiscoveredHTTP DiscoveredKind = iota
	DiscoveredNetwork
	DiscoveredListener
)

// String is what Envoy's statistics call the kind.
func (k DiscoveredKind) String() string {
	return [...]string{"http_filter", "network_filter", "tcp_listener_filter"}[min(int(k), 2)]
}

// Discovery is what config_discovery says of a filter, of whatever kind that is.
type Discovery struct {
	Kind         DiscoveredKind
	Name         string // of the filter and of its configuration
	Source       *corev3.ConfigSource
	FetchTimeout time.Duration
	Types        []string // full names of the messages that it may be configured with
	// Unwarmed (apply_default_config_without_warming): the listener does not wait.
	Unwarmed bool
	Terminal bool // of an HTTP filter: the last of its chain, which has to be the router
}

// DiscoveredFilter is an HTTP filter whose configuration comes over ECDS. Equal ones of different listeners and versions have the same Key and Filter,
// so that connections which outlive a version follow too.
type DiscoveredFilter struct {
	Discovery
	Key    string
	Filter *filter.Dynamic
	// Default is in force while there is no other configuration; nil = none.
	Default filter.Factory
}

// DiscoveredPlace is the place of a network or listener filter whose configuration comes over ECDS. Each listener version has places of its own, as what
// fills them depends on the listener.
type DiscoveredPlace struct {
	Discovery
	Default *anypb.Any            // compiles; nil = none
	Chain   *snapshot.FilterChain // of a network filter: the chain as configured
	Index   int                   // of a listener filter, in Listener.Filters

	listener *snapshot.Listener // as configured
}

// Fits tells why a configuration of a type is of no use for the filter.
func (d *Discovery) Fits(message string) error {
	if !slices.Contains(d.Types, message) {
		return fmt.Errorf("Error: filter config has type URL %s but expect %s.", message, strings.Join(d.Types, ", "))
	}
	row, ok := HTTPFilters.Lookup("type.googleapis.com/" + message)
	switch {
	case d.Kind != DiscoveredHTTP || !ok:
	case d.Terminal && row.Name != routerName:
		return fmt.Errorf("Error: non-terminal filter named %s of type %s is the last filter in a http filter chain.", d.Name, row.Name)
	case !d.Terminal && row.Name == routerName:
		return fmt.Errorf("Error: terminal filter named %s of type %s must be the last filter in a http filter chain.", d.Name, row.Name)
	}
	return nil
}

// discovery compiles what config_discovery has for all kinds, at c; known tells whether a type URL is that of a filter of the kind.
func (s *state) discovery(c *registry.Ctx, kind DiscoveredKind, name string, d *corev3.ExtensionConfigSource, known func(url string) bool) Discovery {
	w := Discovery{Kind: kind, Name: name, Source: d.GetConfigSource(), FetchTimeout: fetchTimeout(d.GetConfigSource()),
		Unwarmed: d.GetApplyDefaultConfigWithoutWarming()}
	for i, url := range d.GetTypeUrls() {
		message := MessageOf(url)
		w.Types = append(w.Types, message)
		if !known(url) {
			s.fail(c.Errorf(registry.Path("").Index("type_urls", i), "Error: no factory found for a required type URL %s.", message))
		}
	}
	if w.Unwarmed && d.GetDefaultConfig() == nil {
		s.fail(c.Errorf("apply_default_config_without_warming", "Error: filter config %s applied without warming but has no default config.", name))
	}
	return w
}

// discovered compiles config_discovery of an HTTP filter at c, the last of its chain if terminal; nil means that it is refused.
func (s *state) discovered(c *registry.Ctx, name string, d *corev3.ExtensionConfigSource, terminal bool) *filter.Dynamic {
	before := len(s.errs)
	w := DiscoveredFilter{Key: fmt.Sprintf("%s/%x/%t", name, resource.HashOf(d), terminal)}
	w.Discovery = s.discovery(c, DiscoveredHTTP, name, d, func(url string) bool { _, ok := HTTPFilters.Lookup(url); return ok })
	w.Terminal = terminal
	if len(s.errs) == before && !slices.ContainsFunc(w.Types, func(t string) bool { return w.Fits(t) == nil }) {
		s.fail(c.Errorf("type_urls", "%w", w.Fits(w.Types[0])))
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
		w.Filter = filter.NewDynamic(terminal)
		w.Filter.Set(w.Default)
	}
	s.out.Filters = append(s.out.Filters, w)
	return w.Filter
}

// discoveredPlace compiles config_discovery of a network or listener filter at c; fill says what is special about the kind.
func (s *state) discoveredPlace(c *registry.Ctx, kind DiscoveredKind, name string, d *corev3.ExtensionConfigSource, fill func(*DiscoveredPlace)) {
	before := len(s.errs)
	w := DiscoveredPlace{listener: s.l, Default: d.GetDefaultConfig()}
	w.Discovery = s.discovery(c, kind, name, d, func(url string) bool {
		_, network := NetworkFilters.Lookup(url)
		_, listener := ListenerFilters.Lookup(url)
		return kind == DiscoveredNetwork && network || kind == DiscoveredListener && listener
	})
	fill(&w)
	if w.Default != nil {
		p, message, err := w.Compile(c, "default_config", w.Default)
		if err == nil {
			p.Release()
			if err = w.Fits(message); err != nil {
				err = c.Errorf("default_config", "%w", err)
			}
		}
		s.fail(err)
	}
	if len(s.errs) == before {
		s.out.Places = append(s.out.Places, w)
	}
}

// Placed is a configuration compiled for its place.
type Placed struct {
	Result                         // of a network filter: what the controller must do for it; Listener is nil
	Chain  *snapshot.FilterChain   // of a network filter
	Filter snapshot.ListenerFilter // of a listener filter
}

// Release gives the statistics back.
func (p *Placed) Release() {
	if p.Chain != nil {
		p.Chain.Release()
	}
	p.Filter.Release()
	for i := range p.Inline {
		p.Inline[i].Table.Release()
	}
}

// Compile compiles a configuration for the place; message is the full name of what it holds. c.Env must be *Env.
func (d *DiscoveredPlace) Compile(c *registry.Ctx, field registry.Path, cfg *anypb.Any) (p *Placed, message string, err error) {
	if url, _, err := registry.Unwrap(cfg); err == nil {
		message = MessageOf(url)
	}
	p = &Placed{}
	if d.Kind == DiscoveredListener {
		p.Filter, err = ListenerFilters.Compile(c, field, d.Name, cfg)
		was := &d.listener.Filters[d.Index]
		p.Filter.Name, p.Filter.Disabled = was.Name, was.Disabled
		return p, message, err
	}
	n, err := NetworkFilters.Compile(c, field, d.Name, cfg)
	if err != nil {
		return nil, message, err
	}
	l := *d.listener
	s := &state{env: registry.EnvOf[*Env](c), out: &Result{Listener: &l}, l: &l}
	fc := *d.Chain
	fc.Discovered = false
	n(s, c.At(field), &fc)
	if err := errors.Join(s.errs...); err != nil {
		return nil, message, err
	}
	s.chainScopes(&fc)
	p.Result, p.Chain = *s.out, &fc
	p.Listener = nil
	return p, message, nil
}

// MessageOf is the full name of the message that a type URL stands for.
func MessageOf(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

// Extension compiles the configuration of a discovered HTTP filter; message is the full name of what it holds. c.Env must be *Env.
func Extension(c *registry.Ctx, x *corev3.TypedExtensionConfig) (f filter.Factory, message string, err error) {
	return compileExtension(c, "typed_config", x.GetName(), x.GetTypedConfig())
}

// compileExtension also returns the type of what cannot be compiled.
func compileExtension(c *registry.Ctx, field registry.Path, name string, cfg *anypb.Any) (f filter.Factory, message string, err error) {
	if url, _, err := registry.Unwrap(cfg); err == nil {
		message = MessageOf(url)
	}
	x, err := HTTPFilters.Compile(c, field, name, cfg)
	if err != nil {
		return nil, message, err
	}
	if x.Router != nil {
		return filter.Terminal{Config: x.Router}, message, nil
	}
	return x.Config.(filter.Factory), message, nil
}

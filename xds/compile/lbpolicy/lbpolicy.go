// SPDX-License-Identifier: Apache-2.0

// Package lbpolicy compiles load balancing policies: the old enum with its configuration messages, and load_balancing_policy extensions.
package lbpolicy

import (
	"errors"
	"math"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	providedv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/cluster_provided/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	wrrv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"sidecar/dataplane/lb"
	"sidecar/dataplane/sys"
	"sidecar/xds/registry"
)

// later names policies that are known but not supported.
var later = map[string]string{
	"type.googleapis.com/envoy.extensions.load_balancing_policies.subset.v3.Subset":                                                 "subset load balancing",
	"type.googleapis.com/envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin": "ORCA load reports",
	"type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost":                                    "stateful sessions",
	"type.googleapis.com/envoy.extensions.load_balancing_policies.pick_first.v3.PickFirst":                                          "pick first",
}

// simple are the policies that hold no other policy.
var simple = []registry.Row[lb.Spec]{
	row("envoy.load_balancing_policies.round_robin", &roundv3.RoundRobin{}, roundRobin),
	row("envoy.load_balancing_policies.least_request", &leastv3.LeastRequest{}, leastRequest),
	row("envoy.load_balancing_policies.random", &randomv3.Random{}, func(_ *registry.Ctx, m *randomv3.Random) (lb.Spec, error) {
		s := lb.Default(lb.Random)
		locality(&s, m.GetLocalityLbConfig())
		return s, nil
	}),
	row("envoy.load_balancing_policies.ring_hash", &ringv3.RingHash{}, ringHash),
	row("envoy.load_balancing_policies.maglev", &maglevv3.Maglev{}, maglev),
	row("envoy.load_balancing_policies.cluster_provided", &providedv3.ClusterProvided{}, func(*registry.Ctx, *providedv3.ClusterProvided) (lb.Spec, error) {
		return lb.Default(lb.ClusterProvided), nil
	}),
}

// inner are the policies that may stand inside wrr_locality.
var inner = registry.MustTable("load balancing policies", simple, later)

// Rows are the load balancing policy extensions.
var Rows = registry.MustTable("load balancing policies",
	append(slices.Clone(simple), wrapped("envoy.load_balancing_policies.wrr_locality", &wrrv3.WrrLocality{})), later)

func row[M proto.Message](name string, m M, compile func(*registry.Ctx, M) (lb.Spec, error)) registry.Row[lb.Spec] {
	return registry.Row[lb.Spec]{Name: name, Message: m, Status: registry.StatusStable, Trust: registry.TrustRobustBoth,
		Compile: func(c *registry.Ctx, m proto.Message) (lb.Spec, error) {
			s, err := compile(c, m.(M))
			if err != nil {
				return s, err
			}
			if err := s.Check(); err != nil {
				return s, c.Errorf("", "%w", err)
			}
			return s, nil
		}}
}

// wrapped is wrr_locality: another policy in each locality, localities by weight.
func wrapped(name string, m *wrrv3.WrrLocality) registry.Row[lb.Spec] {
	return registry.Row[lb.Spec]{Name: name, Message: m, Status: registry.StatusStable, Trust: registry.TrustRobustBoth,
		Notes: "with any policy in the localities except the hashing ones; Envoy only takes client_side_weighted_round_robin there",
		Compile: func(c *registry.Ctx, m proto.Message) (lb.Spec, error) {
			s, err := typed(c, inner, "endpoint_picking_policy", m.(*wrrv3.WrrLocality).GetEndpointPickingPolicy())
			if err != nil {
				return s, err
			}
			if s.Kind == lb.RingHash || s.Kind == lb.Maglev || s.Kind == lb.ClusterProvided {
				return s, c.Errorf("endpoint_picking_policy", "%s cannot be combined with weighted localities here", s.Name())
			}
			s.Hosts.LocalityWeighted = true
			return s, nil
		}}
}

// Compile returns the policy of a cluster: load_balancing_policy when it is set (the first extension that is known counts, as in Envoy), else
// lb_policy with its configuration and common_lb_config. The panic threshold always comes from common_lb_config.
func Compile(c *registry.Ctx, cl *clusterv3.Cluster) (lb.Spec, error) {
	var s lb.Spec
	var err error
	if p := cl.GetLoadBalancingPolicy(); p != nil {
		s, err = typed(c, Rows, "load_balancing_policy", p)
	} else {
		s, err = fromEnum(c, cl)
	}
	if err != nil {
		return s, err
	}
	if p := cl.GetCommonLbConfig().GetHealthyPanicThreshold(); p != nil {
		if s.Hosts.PanicPercent, err = percent(c, p); err != nil {
			return s, err
		}
	}
	return s, nil
}

func percent(c *registry.Ctx, p *typev3.Percent) (uint32, error) {
	v := p.GetValue()
	if math.IsNaN(v) || v < 0 || v > 100 {
		return 0, c.Errorf("common_lb_config.healthy_panic_threshold", "%v is no percentage", v)
	}
	return uint32(math.Round(v)), nil
}

func typed(c *registry.Ctx, rows *registry.Table[lb.Spec], field registry.Path, p *clusterv3.LoadBalancingPolicy) (lb.Spec, error) {
	var unknown []error
	for i, e := range p.GetPolicies() {
		ext := e.GetTypedExtensionConfig()
		s, err := rows.Compile(c, field.Index("policies", i).Field("typed_extension_config").Field("typed_config"), ext.GetName(), ext.GetTypedConfig())
		if err == nil || !errors.Is(err, registry.ErrUnknownType) {
			return s, err
		}
		unknown = append(unknown, err)
	}
	if len(unknown) == 0 {
		return lb.Spec{}, c.Errorf(field.Field("policies"), "has no policy")
	}
	return lb.Spec{}, errors.Join(unknown...)
}

func fromEnum(c *registry.Ctx, cl *clusterv3.Cluster) (lb.Spec, error) {
	var s lb.Spec
	common := cl.GetCommonLbConfig()
	switch cl.GetLbPolicy() {
	case clusterv3.Cluster_ROUND_ROBIN:
		s = lb.Default(lb.RoundRobin)
		slowStart(&s, slow(cl.GetRoundRobinLbConfig().GetSlowStartConfig()))
	case clusterv3.Cluster_LEAST_REQUEST:
		s = lb.Default(lb.LeastRequest)
		cfg := cl.GetLeastRequestLbConfig()
		least(&s, cfg.GetChoiceCount(), cfg.GetActiveRequestBias())
		slowStart(&s, slow(cfg.GetSlowStartConfig()))
	case clusterv3.Cluster_RANDOM:
		s = lb.Default(lb.Random)
	case clusterv3.Cluster_RING_HASH:
		s = lb.Default(lb.RingHash)
		cfg := cl.GetRingHashLbConfig()
		set(&s.MinRing, cfg.GetMinimumRingSize())
		set(&s.MaxRing, cfg.GetMaximumRingSize())
		s.Murmur = cfg.GetHashFunction() == clusterv3.Cluster_RingHashLbConfig_MURMUR_HASH_2
	case clusterv3.Cluster_MAGLEV:
		s = lb.Default(lb.Maglev)
		set(&s.TableSize, cl.GetMaglevLbConfig().GetTableSize())
	case clusterv3.Cluster_CLUSTER_PROVIDED:
		s = lb.Default(lb.ClusterProvided)
	default:
		return s, c.Errorf("lb_policy", "%s needs load_balancing_policy", cl.GetLbPolicy())
	}
	s.Hosts.LocalityWeighted = common.GetLocalityWeightedLbConfig() != nil
	s.Hosts.FailOnPanic = common.GetZoneAwareLbConfig().GetFailTrafficOnPanic()
	if s.Kind == lb.RingHash || s.Kind == lb.Maglev {
		h := common.GetConsistentHashingLbConfig()
		s.UseHostname = h.GetUseHostnameForHashing()
		s.BalanceFactor = h.GetHashBalanceFactor().GetValue()
		if s.UseHostname && cl.GetType() != clusterv3.Cluster_STRICT_DNS {
			return s, c.Errorf("common_lb_config.consistent_hashing_lb_config.use_hostname_for_hashing",
				"cannot use hostname for consistent hashing load balancing for cluster of type %s", cl.GetType())
		}
	}
	if err := s.Check(); err != nil {
		field := registry.Path("ring_hash_lb_config")
		if s.Kind == lb.Maglev {
			field = "maglev_lb_config.table_size"
		}
		return s, c.Errorf(field, "%w", err)
	}
	return s, nil
}

func set(to *uint64, v *wrapperspb.UInt64Value) {
	if v != nil {
		*to = v.GetValue()
	}
}

func roundRobin(_ *registry.Ctx, m *roundv3.RoundRobin) (lb.Spec, error) {
	s := lb.Default(lb.RoundRobin)
	slowStart(&s, slow(m.GetSlowStartConfig()))
	locality(&s, m.GetLocalityLbConfig())
	return s, nil
}

func leastRequest(c *registry.Ctx, m *leastv3.LeastRequest) (lb.Spec, error) {
	s := lb.Default(lb.LeastRequest)
	least(&s, m.GetChoiceCount(), m.GetActiveRequestBias())
	slowStart(&s, slow(m.GetSlowStartConfig()))
	locality(&s, m.GetLocalityLbConfig())
	switch m.GetSelectionMethod() {
	case leastv3.LeastRequest_N_CHOICES:
	case leastv3.LeastRequest_FULL_SCAN:
		s.FullScan = true
	default:
		return s, c.Errorf("selection_method", "unknown value %d", m.GetSelectionMethod())
	}
	return s, nil
}

func least(s *lb.Spec, choices *wrapperspb.UInt32Value, bias *corev3.RuntimeDouble) {
	if choices != nil {
		s.ChoiceCount = max(choices.GetValue(), 2)
	}
	if bias != nil {
		s.ActiveRequestBias = bias.GetDefaultValue()
		if !(s.ActiveRequestBias >= 0) { // as Envoy: a negative bias (or none at all) counts as 1
			s.ActiveRequestBias = 1
		}
	}
}

func ringHash(_ *registry.Ctx, m *ringv3.RingHash) (lb.Spec, error) {
	s := lb.Default(lb.RingHash)
	set(&s.MinRing, m.GetMinimumRingSize())
	set(&s.MaxRing, m.GetMaximumRingSize())
	s.Murmur = m.GetHashFunction() == ringv3.RingHash_MURMUR_HASH_2
	s.UseHostname, s.BalanceFactor = m.GetUseHostnameForHashing(), m.GetHashBalanceFactor().GetValue()
	if h := m.GetConsistentHashingLbConfig(); h != nil {
		s.UseHostname, s.BalanceFactor = h.GetUseHostnameForHashing(), h.GetHashBalanceFactor().GetValue()
	}
	s.Hosts.LocalityWeighted = m.GetLocalityWeightedLbConfig() != nil
	return s, nil
}

func maglev(_ *registry.Ctx, m *maglevv3.Maglev) (lb.Spec, error) {
	s := lb.Default(lb.Maglev)
	set(&s.TableSize, m.GetTableSize())
	h := m.GetConsistentHashingLbConfig()
	s.UseHostname, s.BalanceFactor = h.GetUseHostnameForHashing(), h.GetHashBalanceFactor().GetValue()
	s.Hosts.LocalityWeighted = m.GetLocalityWeightedLbConfig() != nil
	return s, nil
}

func locality(s *lb.Spec, l *commonv3.LocalityLbConfig) {
	s.Hosts.LocalityWeighted = l.GetLocalityWeightedLbConfig() != nil
	s.Hosts.FailOnPanic = l.GetZoneAwareLbConfig().GetFailTrafficOnPanic()
}

// slowConfig is what the two slow start messages have in common.
type slowConfig interface {
	GetSlowStartWindow() *durationpb.Duration
	GetAggression() *corev3.RuntimeDouble
	GetMinWeightPercent() *typev3.Percent
}

// slow turns a typed nil into nil.
func slow[M interface {
	slowConfig
	proto.Message
}](m M) slowConfig {
	if !m.ProtoReflect().IsValid() {
		return nil
	}
	return m
}

func slowStart(s *lb.Spec, m slowConfig) {
	if m == nil {
		return
	}
	s.SlowStart.Window = sys.Nanos(max(m.GetSlowStartWindow().AsDuration(), 0))
	if a := m.GetAggression(); a != nil && a.GetDefaultValue() > 0 {
		s.SlowStart.Aggression = a.GetDefaultValue()
	}
	if p := m.GetMinWeightPercent(); p != nil {
		s.SlowStart.MinShare = p.GetValue() / 100
	}
}

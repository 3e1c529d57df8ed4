// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"sidecar/dataplane/route"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/compile/cluster"
	listenercompile "sidecar/xds/compile/listener"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// context is a TLS context that remembers what it was updated to.
type context struct {
	refs    []SecretRef
	state   string   // what it serves: the contents joined by "+"
	updates []string // every state, in order
	refuse  string   // a content that it does not take
}

func (x *context) Secrets() []SecretRef { return x.refs }

func (x *context) Update(find func(string) any) error {
	var parts []string
	for i := range x.refs {
		parts = append(parts, find(x.refs[i].Key).(string))
	}
	next := strings.Join(parts, "+")
	if x.refuse != "" && strings.Contains(next, x.refuse) {
		return errors.New("does not fit")
	}
	x.state = next
	x.updates = append(x.updates, next)
	return nil
}

func (x *context) Materials() (own, authorities []Material) { return nil, nil }

// Doubt: only what comes from "elsewhere" is doubtful, and strangers always.
func (x *context) Doubt() error {
	if strings.Contains(x.state, "elsewhere") || strings.Contains(x.state, "stranger") {
		return errors.New("nobody knows its authority")
	}
	return nil
}

// needing is a context that needs secrets over ADS with an initial_fetch_timeout (0 = for ever).
func needing(timeout time.Duration, names ...string) *context {
	x := &context{}
	for _, n := range names {
		src := adsSource()
		src.InitialFetchTimeout = durationpb.New(timeout)
		x.refs = append(x.refs, SecretRef{Key: n, Name: n, Source: src, Path: "transport_socket"})
	}
	return x
}

// secretRig is a rig whose listeners and clusters get TLS contexts by name. Contents are the text of the certificate chain; "bad" does not compile,
// "panic" panics.
type secretRig struct {
	*rig
	contexts map[string][]TLSContext
	compiled int
}

func newSecretRig(t testing.TB, v ads.Variant) *secretRig {
	s := &secretRig{rig: newRig(t, v), contexts: map[string][]TLSContext{}}
	k := &s.c.cfg.Compile
	k.Secret = func(_ *registry.Ctx, m *tlsv3.Secret) (any, error) {
		s.compiled++
		d := m.GetTlsCertificate().GetCertificateChain()
		text := d.GetInlineString() + string(d.GetInlineBytes())
		key := m.GetTlsCertificate().GetPrivateKey()
		if k := key.GetInlineString() + string(key.GetInlineBytes()); k != "" && k != "key of "+text {
			return nil, &registry.FieldError{Path: "tls_certificate.private_key", Err: errors.New("key values mismatch")}
		}
		switch text {
		case "bad":
			return nil, &registry.FieldError{Path: "tls_certificate.certificate_chain", Err: errors.New("malformed")}
		case "panic":
			panic("boom")
		}
		return text, nil
	}
	k.ListenerTLS = func(r *listenercompile.Result) []TLSContext { return s.contexts[r.Listener.Name] }
	k.ClusterTLS = func(r *cluster.Result) []TLSContext { return s.contexts[r.Config.StatName] }
	return s
}

func (s *secretRig) listener(names ...string) {
	s.t.Helper()
	var ms []proto.Message
	for i, n := range names {
		ms = append(ms, listenerOf(n, 10000+i, "", "c"))
	}
	if e := s.push(resource.Listener, ms); e != "" {
		s.t.Fatal(e)
	}
}

func secretOf(name, text string) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: text}},
		PrivateKey:       &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: "key of " + text}}}}}
}

func (s *secretRig) secret(ms ...*tlsv3.Secret) string {
	var list []proto.Message
	for _, m := range ms {
		list = append(list, m)
	}
	return s.push(resource.Secret, list)
}

func (s *secretRig) active(name string) bool {
	l := s.c.listeners[name]
	return l != nil && l.active != nil
}

func (s *secretRig) subscribed() string {
	names, _ := s.f.session.Subscriptions(resource.Secret.URL())
	return strings.Join(names, " ")
}

// start gets start-up over CDS; the listeners' routes point at c, or at d.
func (s *secretRig) start() {
	s.push(resource.Cluster, []proto.Message{edsCluster("c", time.Second), edsCluster("d", time.Second)})
	s.push(resource.Endpoints, []proto.Message{assignmentOf("c", 1, 1), assignmentOf("d", 1, 1)})
}

// value reads a statistic.
func (s *secretRig) value(name string) int64 {
	s.t.Helper()
	var v int64
	found := false
	s.c.cfg.Stats.Each(func(x *stats.Scope) {
		for id := range x.Def.Stats {
			if x.Prefix+x.Def.Stats[id].Name == name {
				v, _ = x.Value(id)
				found = true
			}
		}
	})
	if !found {
		s.t.Errorf("there is no statistic %s", name)
	}
	return v
}

var variants = []ads.Variant{ads.SotW, ads.Delta}

func TestListener_WhenItsSecretsAreMissing_ThenItWarmsUntilTheLastIsThere(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			s := newSecretRig(t, v)
			x := needing(0, "cert", "ca")
			s.contexts["l"] = []TLSContext{x}
			s.start()
			s.listener("l")
			if s.active("l") || s.c.State() == Live || s.subscribed() != "ca cert" {
				t.Fatalf("active %v, state %d, subscribed %q", s.active("l"), s.c.State(), s.subscribed())
			}
			if e := s.secret(secretOf("cert", "one")); e != "" {
				t.Fatal(e)
			}
			if s.active("l") || x.state != "" {
				t.Fatalf("active without its ca: %q", x.state)
			}
			s.secret(secretOf("ca", "roots"))
			if !s.active("l") || x.state != "one+roots" || s.c.State() != Live {
				t.Fatalf("active %v with %q", s.active("l"), x.state)
			}
			if n := s.value("listener.127.0.0.1_10000.server_ssl_socket_factory.ssl_context_update_by_sds"); n != 2 {
				t.Errorf("ssl_context_update_by_sds %d, Envoy counts 2", n)
			}
		})
	}
}

func TestSecret_WhenItRotates_ThenContextsChangeAndNothingElse(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			s := newSecretRig(t, v)
			x, y := needing(0, "cert"), needing(0, "cert")
			s.contexts["l"], s.contexts["m"] = []TLSContext{x}, []TLSContext{y}
			s.start()
			s.listener("l", "m")
			s.secret(secretOf("cert", "one"))
			snapshots, epoch := s.p.n, s.c.snap.Epoch
			for i := range 200 {
				if e := s.secret(secretOf("cert", fmt.Sprint("v", i))); e != "" {
					t.Fatal(e)
				}
			}
			if x.state != "v199" || y.state != "v199" || len(x.updates) != 201 {
				t.Errorf("states %q and %q after %d updates", x.state, y.state, len(x.updates))
			}
			if s.p.n != snapshots || s.c.snap.Epoch != epoch {
				t.Error("a rotation made a snapshot")
			}
			if n := s.value("listener_manager.listener_modified"); n != 0 {
				t.Errorf("listener_modified %d", n)
			}
			if len(s.c.contents) != 1 {
				t.Errorf("%d contents are kept", len(s.c.contents))
			}
			s.secret(secretOf("cert", "v199"))
			if len(x.updates) != 201 || s.value("sds.cert.update_success") != 202 {
				t.Errorf("re-sent unchanged: %d updates, update_success %d", len(x.updates), s.value("sds.cert.update_success"))
			}
		})
	}
}

func TestSecret_WhenARotationIsBroken_ThenItIsRefusedByNameAndTheOldOneServes(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			s := newSecretRig(t, v)
			x, y := needing(0, "cert"), needing(0, "cert")
			s.contexts["l"], s.contexts["m"] = []TLSContext{x}, []TLSContext{y}
			s.start()
			s.listener("l", "m")
			s.secret(secretOf("cert", "good"))
			half := secretOf("cert", "new")
			half.GetTlsCertificate().PrivateKey.Specifier = &corev3.DataSource_InlineString{InlineString: "key of old, hush"}
			y.refuse = "unfit"
			for _, c := range []struct {
				m    *tlsv3.Secret
				want string
			}{
				{secretOf("cert", "bad"), `SDS "cert": tls_certificate.certificate_chain: malformed`},
				{half, `SDS "cert": tls_certificate.private_key: key values mismatch`},
				{secretOf("cert", "unfit"), `SDS "cert": does not fit`},
				{secretOf("cert", "panic"), `SDS "cert": panic while it was compiled, which is a bug in sidecar: boom`},
			} {
				if e := s.secret(c.m); e != c.want {
					t.Errorf("NACK %q, expected %q", e, c.want)
				}
				if x.state != "good" || y.state != "good" || !s.active("l") {
					t.Fatalf("%q and %q serve", x.state, y.state)
				}
			}
			dump := s.c.dumpSecrets(&Query{})
			b, err := protojson.Marshal(dump)
			if err != nil {
				t.Fatal(err)
			}
			if len(dump.DynamicActiveSecrets) != 1 || dump.DynamicActiveSecrets[0].ErrorState == nil || strings.Contains(string(b), "key of") {
				t.Errorf("dump: %s", b)
			}
			if n := s.value("sds.cert.update_rejected"); n != 4 {
				t.Errorf("update_rejected %d", n)
			}
			if e := s.secret(secretOf("cert", "better")); e != "" || x.state != "better" {
				t.Errorf("NACK %q, %q serves", e, x.state)
			}
			if len(s.c.rejected) != 0 {
				t.Error("the rejection outlives the next good version")
			}
		})
	}
}

func TestSecret_WhenAContextsAuthoritiesRefuseItsNewCertificate_ThenItServesWithAWarning(t *testing.T) {
	s := newSecretRig(t, ads.Delta)
	var lines []string
	s.c.cfg.Log = func(level, _, format string, args ...any) {
		if level == "warning" {
			lines = append(lines, fmt.Sprintf(format, args...))
		}
	}
	x, y := needing(0, "cert"), needing(0, "other")
	s.contexts["l"], s.contexts["m"] = []TLSContext{x}, []TLSContext{y}
	s.start()
	s.listener("l", "m")
	warning := func(name string) string {
		for _, st := range s.c.secrets {
			if err := st.warning(); err != nil && st.key.name == name {
				return err.Error()
			}
		}
		return ""
	}
	// Authorities that never knew the certificate are those of other peers: nothing to warn of.
	s.secret(secretOf("other", "stranger"))
	s.secret(secretOf("other", "stranger again"))
	s.secret(secretOf("cert", "one"))
	if len(lines) > 0 || warning("cert")+warning("other") != "" {
		t.Fatalf("%q, %q, %q", lines, warning("cert"), warning("other"))
	}
	if e := s.secret(secretOf("cert", "from elsewhere")); e != "" || x.state != "from elsewhere" {
		t.Errorf("NACK %q, %q serves", e, x.state)
	}
	if len(lines) != 1 || !strings.Contains(lines[0], `"cert"`) || !strings.Contains(lines[0], "nobody knows its authority") || warning("cert") == "" || warning("other") != "" {
		t.Errorf("%q, %q, %q", lines, warning("cert"), warning("other"))
	}
	if s.secret(secretOf("cert", "two")); len(lines) != 1 || warning("cert") != "" {
		t.Errorf("the warning outlives its cause: %q, %q", lines, warning("cert"))
	}
}

func TestSecret_WhenTheFirstIsRefused_ThenStartUpGoesOnButARenewalWaits(t *testing.T) {
	s := newSecretRig(t, ads.Delta)
	s.contexts["l"] = []TLSContext{needing(0, "cert")}
	s.start()
	s.listener("l")
	s.secret(secretOf("cert", "bad"))
	if !s.active("l") || s.c.State() != Live {
		t.Fatal("one bad secret holds the start up for ever")
	}
	s.secret(secretOf("cert", "good"))
	old := s.c.listeners["l"].active
	s.contexts["l"] = []TLSContext{needing(0, "other")}
	s.push(resource.Listener, []proto.Message{listenerOf("l", 10000, "", "d")})
	s.secret(secretOf("other", "bad"))
	if s.c.listeners["l"].active != old {
		t.Error("a good version gave way to one without a certificate")
	}
	s.secret(secretOf("other", "good"))
	if s.c.listeners["l"].active == old {
		t.Error("still the old version")
	}
}

func TestListener_WhenASecretDoesNotCome_ThenInitialFetchTimeoutLetsItGo(t *testing.T) {
	for _, c := range []struct {
		timeout time.Duration
		after   time.Duration
		active  bool
	}{{15 * time.Second, 14 * time.Second, false}, {15 * time.Second, 16 * time.Second, true}, {0, 100 * time.Hour, false}} {
		synctest.Test(t, func(t *testing.T) {
			s := newSecretRig(t, ads.SotW)
			x := needing(c.timeout, "never")
			s.contexts["l"] = []TLSContext{x}
			s.start()
			s.listener("l")
			s.pass(c.after)
			if s.active("l") != c.active || x.state != "" {
				t.Errorf("timeout %s after %s: active %v with %q", c.timeout, c.after, s.active("l"), x.state)
			}
			if n := s.value("sds.never.init_fetch_timeout"); (n == 1) != c.active {
				t.Errorf("init_fetch_timeout %d", n)
			}
			s.secret(secretOf("never", "late"))
			if x.state != "late" || !s.active("l") {
				t.Errorf("late secret: %q, active %v", x.state, s.active("l"))
			}
		})
	}
}

// pass lets fake time go by and handles what timers posted.
func (s *secretRig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
	for {
		select {
		case fn := <-s.c.events:
			fn()
			s.c.settleEvent()
		default:
			return
		}
	}
}

func TestCluster_WhenItsSecretIsMissing_ThenItWarmsAndTheCDSAckWaits(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			s := newSecretRig(t, v)
			s.start()
			s.push(resource.Listener, nil)
			x := needing(0, "cert")
			s.contexts["a"] = []TLSContext{x}
			s.push(resource.Cluster, []proto.Message{edsCluster("a", time.Second)})
			acked := func() bool {
				return slices.ContainsFunc(s.w.sent, func(m ads.Send) bool { return m.TypeURL == resource.ClusterURL && m.Nonce != "" })
			}
			s.push(resource.Endpoints, []proto.Message{assignmentOf("a", 1, 3)})
			if acked() || s.c.clusters["a"].active != nil {
				t.Fatal("active, or acknowledged, without its secret")
			}
			s.push(resource.Endpoints, []proto.Message{assignmentOf("a", 1, 5)})
			s.secret(secretOf("cert", "one"))
			row := s.c.clusters["a"].active
			if !acked() || row == nil || row.Hosts.Total != 5 || x.state != "one" {
				t.Fatalf("acknowledged %v, row %v, %q", acked(), row, x.state)
			}
			if n := s.value("cluster.a.client_ssl_socket_factory.ssl_context_update_by_sds"); n != 1 {
				t.Errorf("ssl_context_update_by_sds %d", n)
			}
		})
	}
}

func TestSecret_WhenNobodyNamesItAnyMore_ThenItIsUnsubscribedAndForgotten(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			s := newSecretRig(t, v)
			s.start()
			s.contexts["l"], s.contexts["m"] = []TLSContext{needing(0, "a", "b")}, []TLSContext{needing(0, "a")}
			s.listener("l", "m")
			s.secret(secretOf("a", "1"), secretOf("b", "2"))
			before := scopes(s.c.cfg.Stats)
			s.contexts["l"] = []TLSContext{needing(0, "a", "c")}
			s.push(resource.Listener, []proto.Message{listenerOf("l", 10000, "", "d"), listenerOf("m", 10001, "", "c")})
			if s.subscribed() != "a b c" {
				t.Errorf("subscribed to %q while the old version serves", s.subscribed())
			}
			s.secret(secretOf("c", "3"))
			if s.subscribed() != "a c" || len(s.c.secrets) != 2 || len(s.c.contents) != 2 {
				t.Errorf("subscribed to %q, %d secrets, %d contents", s.subscribed(), len(s.c.secrets), len(s.c.contents))
			}
			if n := scopes(s.c.cfg.Stats); n != before {
				t.Errorf("%d scopes, %d before", n, before)
			}
			s.push(resource.Listener, nil, "l", "m")
			if s.subscribed() != "" || len(s.c.secrets) != 0 || len(s.c.contents) != 0 {
				t.Errorf("subscribed to %q, %d secrets, %d contents", s.subscribed(), len(s.c.secrets), len(s.c.contents))
			}
		})
	}
}

func TestSecret_WhenItIsRemovedOrAbsentOrTheSourceDies_ThenItKeepsServing(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			s := newSecretRig(t, v)
			s.start()
			x := needing(0, "a", "b")
			s.contexts["l"] = []TLSContext{x}
			s.listener("l")
			s.secret(secretOf("a", "1"), secretOf("b", "2"))
			s.push(resource.Secret, nil, "a")
			s.secret(secretOf("b", "3"))
			s.event(ads.Closed{Err: errors.New("gone")})
			if x.state != "1+3" || !s.active("l") || s.value("sds.a.update_failure") != 1 {
				t.Errorf("%q serves, update_failure %d", x.state, s.value("sds.a.update_failure"))
			}
			s.w.sent = nil
			s.event(ads.Opened{})
			if !slices.ContainsFunc(s.w.sent, func(m ads.Send) bool {
				return m.TypeURL == resource.SecretURL && slices.Equal(slices.Concat(m.Names, m.Add), []string{"a", "b"})
			}) {
				t.Errorf("not subscribed again: %+v", s.w.sent)
			}
		})
	}
}

func TestSecrets_WhenThereAre10000_ThenEqualContentIsKeptOnce(t *testing.T) {
	s := newSecretRig(t, ads.Delta)
	s.start()
	const n = 10_000
	var all []*context
	for i := range n {
		if i%100 == 0 {
			all = append(all, &context{})
			s.contexts["l"] = append(s.contexts["l"], all[i/100])
		}
		x := all[i/100]
		x.refs = append(x.refs, SecretRef{Key: fmt.Sprint(i), Name: fmt.Sprint("s", i), Source: adsSource()})
	}
	s.listener("l")
	heap := heapSize()
	body := strings.Repeat("certificate ", 256) // 3 KiB
	var ms []*tlsv3.Secret
	for i := range n {
		ms = append(ms, secretOf(fmt.Sprint("s", i), body))
	}
	began := time.Now()
	if e := s.secret(ms...); e != "" {
		t.Fatal(e)
	}
	took := time.Since(began)
	if len(s.c.contents) != 1 || s.compiled != 1 || len(all[7].updates) != 1 || !s.active("l") {
		t.Errorf("%d contents, %d compiled, %d updates", len(s.c.contents), s.compiled, len(all[7].updates))
	}
	ms, s.w.sent = nil, nil
	grown := heapSize() - heap
	runtime.KeepAlive(s)
	t.Logf("10,000 secrets: %s, %d bytes each", took.Round(time.Millisecond), grown/n)
	if grown > n*4500 { // the resources are 6 KiB each; what is left is mostly statistics
		t.Errorf("%d bytes for each secret", grown/n)
	}
	s.push(resource.Listener, nil, "l")
	if len(s.c.contents)+len(s.c.secrets) != 0 {
		t.Error("something stays")
	}
}

// pair writes a certificate and its key into dir/name and makes dir/current point at it, as Kubernetes does.
func pair(t *testing.T, dir, name, cert, key string) {
	t.Helper()
	d := filepath.Join(dir, name)
	if err := os.Mkdir(d, 0o755); err != nil {
		t.Fatal(err)
	}
	for f, text := range map[string]string{"tls.crt": cert, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(d, f), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(name, filepath.Join(dir, "next")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "current")); err != nil {
		t.Fatal(err)
	}
}

// look is one poll of the watched files.
func (s *secretRig) look() {
	if paths := s.c.fileWatch.look(); len(paths) > 0 {
		s.c.filesChanged(paths)
		s.c.settleEvent()
	}
}

func TestSecret_WhenItsFilesAreSwapped_ThenTheyAreReadAgainAndAHalfPairIsNot(t *testing.T) {
	s := newSecretRig(t, ads.SotW)
	s.start()
	// The test looks at the files itself, and not the goroutine.
	s.c.fileWatch.stop = make(chan struct{})
	dir := t.TempDir()
	pair(t, dir, "1", "one", "key of one")
	x := needing(0, "cert")
	s.contexts["l"] = []TLSContext{x}
	s.listener("l")
	file := func(name string) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: filepath.Join(dir, "current", name)}}
	}
	m := &tlsv3.Secret{Name: "cert", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: file("tls.crt"),
		PrivateKey: file("tls.key"), WatchedDirectory: &corev3.WatchedDirectory{Path: dir}}}}
	if e := s.secret(m); e != "" || x.state != "one" {
		t.Fatalf("NACK %q, %q serves", e, x.state)
	}
	s.look()
	if len(x.updates) != 1 {
		t.Errorf("updated %d times without a change", len(x.updates))
	}
	pair(t, dir, "2", "two", "key of two")
	s.look()
	if x.state != "two" {
		t.Errorf("%q serves after the swap", x.state)
	}
	pair(t, dir, "3", "three", "key of two, still")
	s.look()
	if x.state != "two" || s.value("sds.cert.key_rotation_failed") != 1 || s.c.rejected["SDS/cert"] == nil {
		t.Errorf("%q serves after half a rotation, key_rotation_failed %d", x.state, s.value("sds.cert.key_rotation_failed"))
	}
	if err := os.Remove(filepath.Join(dir, "current", "tls.key")); err != nil {
		t.Fatal(err)
	}
	s.look()
	if x.state != "two" {
		t.Errorf("%q serves without a key file", x.state)
	}
	if err := os.WriteFile(filepath.Join(dir, "current", "tls.key"), []byte("key of three"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.look()
	if x.state != "three" || s.c.rejected["SDS/cert"] != nil {
		t.Errorf("%q serves when the pair is whole again", x.state)
	}
	s.push(resource.Listener, nil, "l")
	if len(s.c.fileUsers)+len(s.c.fileWatch.seen) != 0 {
		t.Error("files are still watched")
	}
}

func TestStaticSecret_WhenItIsNamed_ThenTheContextHasItAtOnceAndUnknownOnesAreRefused(t *testing.T) {
	s := newSecretRig(t, ads.SotW)
	if err := s.c.staticSecret(secretOf("st", "static"), resource.Hash{}); err != nil {
		t.Fatal(err)
	}
	if err := s.c.staticSecret(secretOf("st", "twice"), resource.Hash{}); err == nil {
		t.Error("two of one name")
	}
	s.start()
	x := &context{refs: []SecretRef{{Key: "k", Name: "st"}}}
	s.contexts["l"] = []TLSContext{x}
	s.listener("l")
	if x.state != "static" || !s.active("l") {
		t.Errorf("%q", x.state)
	}
	s.contexts["m"] = []TLSContext{&context{refs: []SecretRef{{Key: "k", Name: "no", Path: "transport_socket"}}}}
	if e := s.push(resource.Listener, []proto.Message{listenerOf("l", 10000, "", "c"), listenerOf("m", 10001, "", "c")}); !strings.Contains(e, "transport_socket: unknown static secret: no") {
		t.Errorf("NACK %q", e)
	}
	d := s.c.dumpSecrets(&Query{})
	if len(d.StaticSecrets) != 1 || d.StaticSecrets[0].Name != "st" {
		t.Errorf("dump: %v", d)
	}
}

func TestPanic_WhenAResourceCannotBeCompiled_ThenOnlyItIsRefusedAndTheStackIsLoggedOnce(t *testing.T) {
	s := newSecretRig(t, ads.SotW)
	stacks := 0
	s.c.cfg.Log = func(level, _, format string, args ...any) {
		if level == "critical" && strings.Contains(fmt.Sprintf(format, args...), "secrets_test.go") {
			stacks++
		}
	}
	s.start()
	x := needing(0, "a", "b")
	s.contexts["l"] = []TLSContext{x}
	s.listener("l")
	for range 3 {
		if e := s.secret(secretOf("a", "panic"), secretOf("b", "fine")); !strings.Contains(e, `SDS "a": panic`) || !strings.Contains(e, "bug") {
			t.Errorf("NACK %q", e)
		}
	}
	if s.c.secrets[secretKey{s.f, "b"}].content == nil {
		t.Error("the sibling was lost")
	}
	if stacks != 1 {
		t.Errorf("the stack was logged %d times", stacks)
	}
}

func TestPanic_WhenARowOfTheRegistryPanics_ThenListenersAndRoutesAreRefusedAndTheOldOnesServe(t *testing.T) {
	s := newSecretRig(t, ads.Delta)
	good := s.c.cfg.Compile.Routes
	s.c.cfg.Compile.Routes = func(c *Controller, ctx *registry.Ctx, rc *routev3.RouteConfiguration, hash uint64, static bool) (*route.Table, error) {
		if rc.VirtualHosts[0].Domains[0] == "boom.test" {
			panic("boom")
		}
		return good(c, ctx, rc, hash, static)
	}
	s.start()
	if e := s.push(resource.Listener, []proto.Message{listenerOf("l", 10000, "", "c"), listenerOf("r", 10001, "rds", "")}); e != "" {
		t.Fatal(e)
	}
	s.push(resource.RouteConfiguration, []proto.Message{routesTo("rds", "c")})
	listener, table := s.c.listeners["l"].active, s.c.routes["rds"].table
	bad := routesTo("rds", "d")
	bad.VirtualHosts[0].Domains[0] = "boom.test"
	if e := s.push(resource.RouteConfiguration, []proto.Message{bad}); !strings.Contains(e, `RDS "rds": panic while it was compiled, which is a bug in sidecar: boom`) {
		t.Errorf("NACK %q", e)
	}
	h := &hcmv3.HttpConnectionManager{}
	next := listenerOf("l", 10000, "", "d")
	f := next.FilterChains[0].Filters[0].GetTypedConfig()
	if err := f.UnmarshalTo(h); err != nil {
		t.Fatal(err)
	}
	h.GetRouteConfig().VirtualHosts[0].Domains[0] = "boom.test"
	if err := f.MarshalFrom(h); err != nil {
		t.Fatal(err)
	}
	if e := s.push(resource.Listener, []proto.Message{next, listenerOf("sibling", 10002, "", "c")}); !strings.Contains(e, `LDS "l": panic while it was compiled`) {
		t.Errorf("NACK %q", e)
	}
	if s.c.listeners["l"].active != listener || s.c.routes["rds"].table != table || !s.active("sibling") {
		t.Error("something else than the resource itself is gone")
	}
}

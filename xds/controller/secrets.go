// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"fmt"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"sidecar/internal/telemetry/stats"
	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
	"sidecar/xds/transport"
)

// TLSContext is one DownstreamTlsContext or UpstreamTlsContext of a listener or cluster, as the controller sees it. The context is part of the model:
// what a handshake uses is swapped inside it, so that a new secret needs no new snapshot, drains no listener and cuts no connection.
type TLSContext interface {
	// Secrets lists the secrets that it needs; none for a context that is complete by itself.
	Secrets() []SecretRef
	// Update derives the context anew. find gives what Compilers.Secret made of the secret with a SecretRef's Key; it is only called when all
	// secrets are there. On an error the context stays as it was.
	Update(find func(key string) any) error
	// Doubt is why the authorities of the context would refuse its own certificate, which is what peers that trust the same ones do; nil when they
	// would not, or when it lacks one of the two.
	Doubt() error
	// Materials are the certificates in force, for /certs; both are empty while it waits for secrets.
	Materials() (own, authorities []Material)
}

// SecretRef is one secret that a context needs.
type SecretRef struct {
	Key    string               // under which the context asks for it; unique in the context
	Name   string               // of the secret
	Source *corev3.ConfigSource // where it comes from; nil = static_resources.secrets
	Path   registry.Path        // of the SdsSecretConfig in the resource, for errors
	// Fits tells why a content is of no use here (a secret of another kind); nil takes everything.
	Fits func(content any) error
}

// secretKey tells secrets apart: two config sources may have secrets of one name. feed is nil for static ones.
type secretKey struct {
	feed *feed
	name string
}

// secretState is one secret by source and name. A dynamic one lives while a version of a listener or cluster uses it.
type secretState struct {
	key     secretKey
	users   []*tlsUse
	content *secretContent // what is served; nil until the first good one
	hash    resource.Hash  // of the message as received, file contents aside
	raw     resource.Hash  // of its bytes
	message *tlsv3.Secret  // as received; only kept when it names files
	files   []string       // that it was read from
	version string
	since   time.Time // first asked for
	updated time.Time
	counts  *subscription
	sds     *stats.Scope // stats.SDSDef
	warned  bool         // that it expires soon
}

// secretContent is what secrets of equal content share, whatever their names: one parsed copy and one for dumps.
type secretContent struct {
	hash  resource.Hash
	value any    // what Compilers.Secret made
	shown []byte // the message without its name, private parts redacted
	refs  int
}

// tlsUse is the contexts of one version of a listener or cluster with their secrets.
type tlsUse struct {
	contexts []*boundContext
	naming   map[*secretState][]*boundContext
	waits    map[*secretState]*time.Timer // secrets without which the version does not become active; the timer is initial_fetch_timeout, nil = for ever
	renewal  bool                         // an older version serves meanwhile
	scope    *stats.Scope                 // stats.SSLSocketFactoryDef
	ready    func()                       // called when waits has become empty
}

// boundContext is a context with the secrets that it needs.
type boundContext struct {
	TLSContext
	refs    []boundRef
	doubt   error // Doubt after the last update
	trusted bool  // there was a time without doubt: both ends trust the same authorities, and a doubt is worth a warning
}

// judge looks at what an update has made of the context.
func (b *boundContext) judge() {
	b.doubt = b.Doubt()
	b.trusted = b.trusted || b.doubt == nil
}

// warning is what is doubtful about the context; nil for nothing.
func (b *boundContext) warning() error {
	if !b.trusted {
		return nil
	}
	return b.doubt
}

type boundRef struct {
	key  string
	st   *secretState
	fits func(any) error
}

// find is the lookup for TLSContext.Update.
func (b *boundContext) find(key string) any {
	for i := range b.refs {
		if b.refs[i].key == key && b.refs[i].st.content != nil {
			return b.refs[i].st.content.value
		}
	}
	return nil
}

func (b *boundContext) complete() bool {
	return !slices.ContainsFunc(b.refs, func(r boundRef) bool { return r.st.content == nil })
}

// waiting tells whether the version must be held back.
func (u *tlsUse) waiting() bool { return u != nil && len(u.waits) > 0 }

// waitsFor lists the missing secrets as Envoy names their init targets.
func (u *tlsUse) waitsFor() []string {
	if u == nil {
		return nil
	}
	var out []string
	for st := range u.waits {
		out = append(out, "SdsApi "+st.key.name)
	}
	slices.Sort(out)
	return out
}

// useSecrets makes a version a user of the secrets that its contexts need; what is not there yet is asked for and waited for. ready runs when the last
// wait is over, never from within the call. scope counts the updates and belongs to the result. A context without secrets is kept for /certs only.
func (c *Controller) useSecrets(contexts []TLSContext, scope *stats.Scope, renewal bool, ready func()) (*tlsUse, error) {
	if len(contexts) == 0 {
		releaseScope(scope)
		return nil, nil
	}
	c.expiry.known = false
	u := &tlsUse{naming: map[*secretState][]*boundContext{}, waits: map[*secretState]*time.Timer{}, renewal: renewal, scope: scope, ready: ready}
	err := c.bindAll(u, contexts)
	if err != nil {
		c.leaveSecrets(u)
		return nil, err
	}
	return u, nil
}

func (c *Controller) bindAll(u *tlsUse, contexts []TLSContext) error {
	for _, x := range contexts {
		b := &boundContext{TLSContext: x}
		u.contexts = append(u.contexts, b)
		for _, ref := range x.Secrets() {
			st, timeout, err := c.secretOf(&ref)
			if err != nil {
				return err
			}
			if err := st.suits(&ref); err != nil {
				return err
			}
			b.refs = append(b.refs, boundRef{ref.Key, st, ref.Fits})
			if len(u.naming[st]) == 0 {
				st.users = append(st.users, u)
			}
			if !slices.Contains(u.naming[st], b) {
				u.naming[st] = append(u.naming[st], b)
			}
			if st.content == nil {
				c.waitForSecret(u, st, timeout)
			}
		}
		if len(b.refs) > 0 && b.complete() {
			if err := b.Update(b.find); err != nil {
				return err
			}
			b.judge()
		}
	}
	return nil
}

// secretOf finds the secret for a reference, subscribing to it on first use, and its initial_fetch_timeout.
func (c *Controller) secretOf(ref *SecretRef) (*secretState, time.Duration, error) {
	if ref.Source == nil {
		st := c.secrets[secretKey{nil, ref.Name}]
		if st == nil {
			return nil, 0, &registry.FieldError{Path: ref.Path, Err: fmt.Errorf("unknown static secret: %s", ref.Name)}
		}
		return st, 0, nil
	}
	at := ref.Path.Field("sds_config")
	src, err := c.source(ref.Source, at)
	if err != nil {
		return nil, 0, err
	}
	f, err := c.feedFor(resource.Secret, src, ref.Name)
	if err != nil {
		return nil, 0, &registry.FieldError{Path: at, Err: err}
	}
	k := secretKey{f, ref.Name}
	st := c.secrets[k]
	if st == nil {
		st = c.newSecret(k)
		if src.Kind != bootstrap.SourcePath { // Envoy counts no attempt for looking at a file
			st.counts.attempt()
		}
		f.subscribe(resource.Secret, false, ref.Name)
	}
	return st, src.InitialFetchTimeout, nil
}

// checkSecrets finds, for listeners that subscribe later, references to static secrets that do not exist or are of another kind, and to sources
// that cannot be asked.
func (c *Controller) checkSecrets(contexts []TLSContext) error {
	var errs []error
	for _, x := range contexts {
		for _, ref := range x.Secrets() {
			if ref.Source != nil {
				_, err := c.source(ref.Source, ref.Path.Field("sds_config"))
				errs = append(errs, err)
				continue
			}
			st, _, err := c.secretOf(&ref)
			if err == nil {
				err = st.suits(&ref)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// suits tells why the secret, if it is there, is not what ref asks for.
func (st *secretState) suits(ref *SecretRef) error {
	if ref.Fits == nil || st.content == nil {
		return nil
	}
	if err := ref.Fits(st.content.value); err != nil {
		return &registry.FieldError{Path: ref.Path, Err: fmt.Errorf("secret %q: %w", ref.Name, err)}
	}
	return nil
}

func (c *Controller) newSecret(k secretKey) *secretState {
	st := &secretState{key: k, since: time.Now()}
	if k.feed != nil {
		prefix := "sds." + k.name + "."
		st.counts = c.mgr.subscription(prefix, nil)
		st.sds = c.mgr.reg.Scope(prefix, stats.SDSDef)
	}
	c.secrets[k] = st
	return st
}

// waitForSecret holds a version back until the secret is there or its initial_fetch_timeout is over; then it goes on without, as in Envoy: the
// listener or cluster is active, and its connections are refused until the secret comes.
func (c *Controller) waitForSecret(u *tlsUse, st *secretState, timeout time.Duration) {
	if _, twice := u.waits[st]; twice {
		return
	}
	u.waits[st] = nil
	if timeout > 0 {
		u.waits[st] = c.after(timeout, func() {
			if _, on := u.waits[st]; on {
				st.counts.timedOut()
				c.endWait(u, st)
			}
		})
	}
}

// endWait lets a version go on when this was the last secret that it waited for.
func (c *Controller) endWait(u *tlsUse, st *secretState) {
	t, on := u.waits[st]
	if !on {
		return
	}
	if t != nil {
		t.Stop()
	}
	delete(u.waits, st)
	if len(u.waits) == 0 {
		u.ready()
	}
}

// leaveSecrets ends a version's use of secrets. Unsubscribing waits until the running event is over: what replaces the version may use the same ones.
func (c *Controller) leaveSecrets(u *tlsUse) {
	if u == nil {
		return
	}
	c.expiry.known = false
	for _, t := range u.waits {
		if t != nil {
			t.Stop()
		}
	}
	clear(u.waits)
	for st := range u.naming {
		if at := slices.Index(st.users, u); at >= 0 {
			st.users = slices.Delete(st.users, at, at+1)
		}
		if len(st.users) == 0 && st.key.feed != nil {
			c.soon(func() { c.dropSecret(st) })
		}
	}
	u.contexts, u.naming = nil, nil
	releaseScope(u.scope)
	u.scope = nil
}

// dropSecret forgets a secret that nobody uses any more.
func (c *Controller) dropSecret(st *secretState) {
	if len(st.users) > 0 || c.secrets[st.key] != st {
		return
	}
	delete(c.secrets, st.key)
	c.setContent(st, nil)
	c.watchFiles(st, nil)
	c.forget(resource.Secret, st.key.name)
	st.key.feed.unsubscribe(resource.Secret, st.key.name)
	st.key.feed.retire()
	st.counts.release()
	st.sds.Release()
}

// applySecrets handles one SDS batch. Absence and removal never remove (a secret lives and dies with what names it), and what nobody asked for was
// dropped by the session.
func (c *Controller) applySecrets(f *feed, d ads.Deliver) []ads.Rejection {
	var rej []ads.Rejection
	for i := range d.Changed {
		r := &d.Changed[i]
		began := time.Now()
		version := first(r.Version, d.Version)
		hash := resource.RawHash(r.TypeURL, r.Body)
		if st := c.secrets[secretKey{f, r.Name}]; st != nil && st.content != nil && st.raw == hash {
			c.sameSecret(st, version)
			continue
		}
		dec, err := c.decode(resource.Secret, r)
		name := r.Name
		if err == nil {
			name = dec.Name
		}
		st := c.secrets[secretKey{f, name}]
		switch {
		case err != nil:
		case st == nil:
			continue // nobody uses it any more
		case st.content != nil && st.hash == dec.Hash:
			st.raw = hash
			c.sameSecret(st, version)
			continue
		default:
			err = c.setSecret(st, dec.Message.(*tlsv3.Secret), dec.Hash)
		}
		if err != nil {
			for _, l := range c.refuseSecret(st, name, version, dec, err) {
				rej = append(rej, ads.Rejection{Name: r.Name, Text: l})
			}
			continue
		}
		st.raw, st.version = hash, version
		st.counts.accepted(version, time.Since(began))
	}
	if _, file := f.run.(*transport.File); file {
		c.refuseAbsent(f, d)
	}
	return rej
}

// refuseAbsent tells those who wait for a secret that its file does not have it: other than from a server, nothing more comes by waiting.
func (c *Controller) refuseAbsent(f *feed, d ads.Deliver) {
	for _, st := range c.sortedSecrets() {
		name := st.key.name
		if st.key.feed == f && st.content == nil && !slices.ContainsFunc(d.Changed, func(r ads.Raw) bool { return r.Name == name }) {
			c.refuseSecret(st, name, d.Version, nil, errors.New("is not in the file"))
		}
	}
}

// sameSecret counts a secret that was re-sent unchanged.
func (c *Controller) sameSecret(st *secretState, version string) {
	c.forgetRejection(resource.Secret, st.key.name)
	st.version = version
	st.counts.accepted(version, 0)
}

// refuseSecret records why a secret was refused; the old one keeps serving. What starts for the first time does not wait for a better one, as in
// Envoy; a new version of what serves already does. The message is never kept as it came: it may hold a private key.
func (c *Controller) refuseSecret(st *secretState, name, version string, dec *resource.Decoded, err error) []string {
	lines := c.reject(resource.Secret, name, version, nil, err)
	if dec != nil {
		c.rejected[resource.Secret.String()+"/"+name].Any = redactedSecret(dec.Message.(*tlsv3.Secret))
	}
	if st == nil {
		return lines
	}
	st.counts.rejected(st.key.feed.delta)
	if st.content == nil {
		for _, u := range slices.Clone(st.users) {
			if !u.renewal {
				c.endWait(u, st)
			}
		}
	}
	return lines
}

// setSecret makes a message the content of a secret and updates every context that uses it. On an error everything stays as it was.
func (c *Controller) setSecret(st *secretState, m *tlsv3.Secret, hash resource.Hash) error {
	var files []string
	full := m
	if st.key.feed != nil || watchesDirectory(m) {
		var err error
		if files, full, err = readSources(m); err != nil {
			return err
		}
	}
	rep := &registry.Report{}
	content, err := c.contentOf(full, rep)
	if err != nil {
		return err
	}
	if content == st.content { // read again for nothing
		c.dropContent(content)
		c.forgetRejection(resource.Secret, st.key.name)
		return nil
	}
	err = st.fits(content)
	if err == nil {
		err = c.rotate(st, content)
	}
	if err != nil {
		c.dropContent(content)
		return err
	}
	c.accept(resource.Secret, st.key.name, rep)
	st.hash, st.updated, st.message, st.warned = hash, time.Now(), nil, false
	if len(files) > 0 {
		st.message = m
	}
	c.watchFiles(st, files)
	for _, u := range slices.Clone(st.users) {
		c.endWait(u, st)
	}
	return nil
}

// fits tells why one of the contexts has no use for a content.
func (st *secretState) fits(x *secretContent) error {
	for _, u := range st.users {
		for _, b := range u.naming[st] {
			for i := range b.refs {
				if r := &b.refs[i]; r.st == st && r.fits != nil {
					if err := r.fits(x.value); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// contentOf compiles a message, or finds what an equal one was compiled to; the result is the caller's reference.
func (c *Controller) contentOf(m *tlsv3.Secret, rep *registry.Report) (*secretContent, error) {
	name := m.GetName()
	m.Name = ""
	defer func() { m.Name = name }()
	hash := resource.HashOf(m)
	if x := c.contents[hash]; x != nil {
		x.refs++
		return x, nil
	}
	shown := redactedSecret(m).GetValue()
	m.Name = name
	var value any
	ctx := &registry.Ctx{Schema: c.schema, Unknown: c.cfg.Unknown, Report: rep}
	err := c.guard(resource.Secret, name, func() (err error) {
		value, err = c.cfg.Compile.Secret(ctx, m)
		return err
	})
	if err != nil {
		return nil, err
	}
	x := &secretContent{hash: hash, value: value, shown: shown, refs: 1}
	c.contents[hash] = x
	return x, nil
}

func (c *Controller) dropContent(x *secretContent) {
	if x.refs--; x.refs == 0 {
		delete(c.contents, x.hash)
	}
}

// setContent replaces the content of a secret, whose reference it takes over.
func (c *Controller) setContent(st *secretState, x *secretContent) {
	if st.content != nil {
		c.dropContent(st.content)
	}
	st.content = x
}

// rotate gives the new content of a secret to every context that uses it. When one refuses it, those before go back to the old content.
func (c *Controller) rotate(st *secretState, next *secretContent) error {
	c.expiry.known = false
	old := st.content
	st.content = next
	var done []*boundContext
	for _, u := range st.users {
		for _, b := range u.naming[st] {
			if !b.complete() {
				continue
			}
			if err := b.Update(b.find); err != nil {
				st.content = old
				for _, x := range done {
					if x.complete() {
						_ = x.Update(x.find) // it served this before
					}
				}
				return err
			}
			done = append(done, b)
		}
	}
	var warning error
	for _, b := range done {
		if b.judge(); warning == nil {
			warning = b.warning()
		}
	}
	if warning != nil {
		c.cfg.Log("warning", "config", "secret %q has changed, and now a context's authorities refuse its own certificate, as peers may: %v", st.key.name, warning)
	}
	for _, u := range st.users {
		u.scope.Control().Add(stats.SSLSocketFactoryContextUpdateBySDS, int64(len(u.naming[st])))
	}
	if old != nil {
		c.dropContent(old)
	}
	return nil
}

// secretsFailed counts a stream that ended, or could not be opened, for the secrets on it. What they hold keeps serving.
func (c *Controller) secretsFailed(f *feed) {
	if f.only != "" {
		if st := c.secrets[secretKey{f, f.only}]; st != nil {
			st.counts.failed()
		}
		return
	}
	for k, st := range c.secrets {
		if k.feed == f {
			st.counts.failed()
		}
	}
}

// staticSecret takes in one secret of the bootstrap. Its files are read once, unless a watched_directory says otherwise, and keep their paths in /certs
// and dumps, as in Envoy.
func (c *Controller) staticSecret(m *tlsv3.Secret, hash resource.Hash) error {
	k := secretKey{nil, m.GetName()}
	if c.secrets[k] != nil {
		return fmt.Errorf("duplicate static secret '%s'", m.GetName())
	}
	st := c.newSecret(k)
	if err := c.setSecret(st, m, hash); err != nil {
		delete(c.secrets, k)
		return err
	}
	return nil
}

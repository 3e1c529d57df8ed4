// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/internal/telemetry/stats"
	"sidecar/xds/registry"
	"sidecar/xds/resource"
)

// secretFileMax bounds a file that a secret names; a bundle of all public roots has about 250 KiB.
const secretFileMax = 4 << 20

// readSources returns the message with the files that it names read into it (as Envoy does, so that dumps and /certs show inline content), and the
// paths of those files, sorted. The message itself stays as it is. The directories that it says to watch need no watching of their own: files are
// looked at through symbolic links.
func readSources(m *tlsv3.Secret) (files []string, full *tlsv3.Secret, err error) {
	full = proto.Clone(m).(*tlsv3.Secret)
	read := func(at registry.Path, d *corev3.DataSource) {
		path := d.GetFilename()
		if path == "" || err != nil {
			return
		}
		b, e := readFile(path)
		if e != nil {
			err = &registry.FieldError{Path: at.Field("filename"), Err: e}
			return
		}
		files = append(files, path)
		d.Specifier = &corev3.DataSource_InlineBytes{InlineBytes: b}
		d.WatchedDirectory = nil
	}
	eachSource(full.ProtoReflect(), "", read)
	if e := readValidator(full.GetValidationContext().GetCustomValidatorConfig().GetTypedConfig(), read); err == nil {
		err = e
	}
	if err != nil {
		return nil, nil, err
	}
	if t := full.GetTlsCertificate(); t != nil {
		t.WatchedDirectory = nil
	}
	if v := full.GetValidationContext(); v != nil {
		v.WatchedDirectory = nil
	}
	if len(files) == 0 {
		return nil, m, nil
	}
	slices.Sort(files)
	return slices.Compact(files), full, nil
}

// readValidator reads the files of the SPIFFE validator; those of others are their compilers'.
func readValidator(a *anypb.Any, read func(registry.Path, *corev3.DataSource)) error {
	m := &tlsv3.SPIFFECertValidatorConfig{}
	if !a.MessageIs(m) || a.UnmarshalTo(m) != nil { // its compiler says what is wrong
		return nil
	}
	eachSource(m.ProtoReflect(), "validation_context.custom_validator_config.typed_config", read)
	return a.MarshalFrom(m)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, secretFileMax+1))
	switch {
	case err != nil:
		return nil, err
	case len(b) > secretFileMax:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, secretFileMax)
	case len(b) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	}
	return b, nil
}

// watchesDirectory tells whether a static secret asks for its files to be watched.
func watchesDirectory(m *tlsv3.Secret) bool {
	on := m.GetTlsCertificate().GetWatchedDirectory() != nil || m.GetValidationContext().GetWatchedDirectory() != nil
	eachSource(m.ProtoReflect(), "", func(_ registry.Path, d *corev3.DataSource) { on = on || d.GetWatchedDirectory() != nil })
	return on
}

// eachSource calls fn for every data source in m, but not for those inside an Any.
func eachSource(m protoreflect.Message, at registry.Path, fn func(registry.Path, *corev3.DataSource)) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(fd.Name())
		visit := func(at registry.Path, x protoreflect.Message) {
			if d, ok := x.Interface().(*corev3.DataSource); ok {
				fn(at, d)
				return
			}
			eachSource(x, at, fn)
		}
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(k protoreflect.MapKey, e protoreflect.Value) bool {
					visit(at.Key(name, k.String()), e.Message())
					return true
				})
			}
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				visit(at.Index(name, i), v.List().Get(i).Message())
			}
		default:
			visit(at.Field(name), v.Message())
		}
		return true
	})
}

// watchFiles makes files the ones whose changes re-read the secret.
func (c *Controller) watchFiles(st *secretState, files []string) {
	for _, p := range st.files {
		if !slices.Contains(files, p) {
			c.fileUsers[p] = slices.DeleteFunc(c.fileUsers[p], func(x *secretState) bool { return x == st })
			if len(c.fileUsers[p]) == 0 {
				delete(c.fileUsers, p)
				c.fileWatch.remove(p)
			}
		}
	}
	for _, p := range files {
		if !slices.Contains(st.files, p) {
			c.fileUsers[p] = append(c.fileUsers[p], st)
			c.fileWatch.add(p)
		}
	}
	st.files = files
}

// filesChanged re-reads the secrets that name one of the files. What cannot be read or is refused (a half-written pair, say) changes nothing; the next
// change of a file tries again.
func (c *Controller) filesChanged(paths []string) {
	var again []*secretState
	for _, p := range paths {
		for _, st := range c.fileUsers[p] {
			if !slices.Contains(again, st) {
				again = append(again, st)
			}
		}
	}
	for _, st := range again {
		old := st.content
		err := c.setSecret(st, st.message, st.hash)
		name := st.key.name
		switch {
		case err == nil && st.content != old:
			c.cfg.Log("info", "config", "secret %q was read again from its files", name)
		case err != nil:
			if st.sds != nil {
				st.sds.Control().Inc(stats.SDSKeyRotationFailed)
			}
			c.reject(resource.Secret, name, st.version, nil, err)
		}
	}
}

// watchEvery is how often watched files are looked at, and watchPerFile stretches that so that many files do not cost more than one look a millisecond.
const (
	watchEvery   = 100 * time.Millisecond
	watchPerFile = time.Millisecond
)

// fileWatch looks at files and tells which have changed: replaced, moved over, reached by another symbolic link, or written in place. Its goroutine
// runs while there are files.
type fileWatch struct {
	// Immutable
	changed func(paths []string)

	// Shared, under mu
	mu    sync.Mutex
	seen  map[string]os.FileInfo // nil = missing
	stop  chan struct{}          // nil = not running
	group sync.WaitGroup
}

// add begins to watch a file. What was read of it before may be older than this first look by a moment, so the first change is reported at once: the
// state is taken as unknown.
func (w *fileWatch) add(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen == nil {
		w.seen = map[string]os.FileInfo{}
	}
	w.seen[path] = unknownFile{}
	if w.stop == nil {
		w.stop = make(chan struct{})
		w.group.Add(1)
		go w.run(w.stop)
	}
}

func (w *fileWatch) remove(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.seen, path)
	if len(w.seen) == 0 {
		w.end()
	}
}

// close ends the goroutine and waits for it; changed must not block by then.
func (w *fileWatch) close() {
	w.mu.Lock()
	w.end()
	w.mu.Unlock()
	w.group.Wait()
}

func (w *fileWatch) end() {
	if w.stop != nil {
		close(w.stop)
		w.stop = nil
	}
}

func (w *fileWatch) run(stop chan struct{}) {
	defer w.group.Done()
	for {
		paths := w.look()
		if len(paths) > 0 {
			w.changed(paths)
		}
		w.mu.Lock()
		pause := max(watchEvery, time.Duration(len(w.seen))*watchPerFile)
		w.mu.Unlock()
		select {
		case <-stop:
			return
		case <-time.After(pause):
		}
	}
}

// look returns the files whose state is not the one seen last.
func (w *fileWatch) look() []string {
	w.mu.Lock()
	seen := maps.Clone(w.seen)
	w.mu.Unlock()
	var out []string
	for _, p := range slices.Sorted(maps.Keys(seen)) {
		now, err := os.Stat(p)
		if err != nil {
			now = nil
		}
		if sameFile(seen[p], now) {
			continue
		}
		out = append(out, p)
		w.mu.Lock()
		if _, on := w.seen[p]; on {
			w.seen[p] = now
		}
		w.mu.Unlock()
	}
	return out
}

// unknownFile is the state of a file that was not looked at yet: unlike any other.
type unknownFile struct{ os.FileInfo }

func sameFile(a, b os.FileInfo) bool {
	if _, unknown := a.(unknownFile); unknown {
		return false
	}
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

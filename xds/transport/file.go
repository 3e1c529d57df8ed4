// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/xds/ads"
	"sidecar/xds/bootstrap"
)

// PollInterval is how often a watched file is looked at.
const PollInterval = 100 * time.Millisecond

// FileConfig of a File.
type FileConfig struct {
	// Path of the file: a DiscoveryResponse as YAML, JSON, text or binary protobuf, by its extension. It is followed through symbolic
	// links, so that a Kubernetes config map whose directory is switched counts as a change.
	Path string
	// Type URL expected when the file does not say one.
	TypeURL string
	// Sink gets the events. Required.
	Sink  Sink
	Clock Clock
	Stats Stats
}

// File is a Runner over a watched file (path_config_source): a SotW session sees it as a server that sends the file's content whenever it
// changes, or whenever the names asked for change. Requests go nowhere. Moves over the file are seen and, other than with Envoy, writes
// in place too; a file that is missing, half-written or malformed counts as a failure and keeps what there is.
type File struct {
	// Immutable
	cfg  FileConfig
	done chan struct{}
	kick chan struct{} // something to look at before the next poll; capacity 1
	wg   sync.WaitGroup
	once sync.Once

	// Shared, under mu
	mu      sync.Mutex
	asked   bool
	again   bool
	names   []string
	permit  bool
	started bool
}

// NewFile returns a watcher that Start starts.
func NewFile(cfg FileConfig) (*File, error) {
	if cfg.Path == "" || cfg.Sink == nil {
		return nil, errors.New("a watched file needs a path and a sink")
	}
	if cfg.Clock == nil {
		start := time.Now()
		cfg.Clock = func() time.Duration { return time.Since(start) }
	}
	if cfg.Stats == nil {
		cfg.Stats = noStats{}
	}
	return &File{cfg: cfg, done: make(chan struct{}), kick: make(chan struct{}, 1), permit: true}, nil
}

// Start implements Runner.
func (f *File) Start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.started {
		return
	}
	f.started = true
	f.wg.Add(1)
	go f.watch()
}

// Do implements Runner.
func (f *File) Do(a ads.Action) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch a := a.(type) {
	case ads.Send:
		if !f.asked || !slices.Equal(f.names, a.Names) {
			f.asked, f.again, f.names = true, true, a.Names
			f.nudge()
		}
	case ads.Read:
		f.permit = true
		f.nudge()
	}
}

func (f *File) nudge() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// Close implements Runner.
func (f *File) Close() {
	f.once.Do(func() { close(f.done) })
	f.wg.Wait()
}

// same reports whether two looks at the file saw the same state; nil is a missing file.
func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

func (f *File) watch() {
	defer f.wg.Done()
	f.cfg.Sink(ads.Opened{})
	tick := time.NewTicker(PollInterval)
	defer tick.Stop()
	var last os.FileInfo
	var failed string
	serial := 0
	for {
		if now, due := f.due(last); due {
			serial++
			err := f.deliver(serial)
			if text := fmt.Sprint(err); err != nil && text != failed {
				f.cfg.Stats.Failed(err)
				failed = text
			} else if err == nil {
				failed = ""
			}
			last = now
		}
		select {
		case <-f.done:
			return
		case <-tick.C:
		case <-f.kick:
		}
	}
}

// due reports the file's state and whether it is to be delivered now. A missing file is delivered as a failure once.
func (f *File) due(last os.FileInfo) (os.FileInfo, bool) {
	now, err := os.Stat(f.cfg.Path)
	if err != nil {
		now = nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.asked || !f.permit || (!f.again && same(now, last)) {
		return last, false
	}
	f.again = false
	return now, true
}

func (f *File) deliver(serial int) error {
	data, err := os.ReadFile(f.cfg.Path)
	if err != nil {
		return err
	}
	m := &discoveryv3.DiscoveryResponse{}
	if err := bootstrap.Unmarshal(f.cfg.Path, data, m); err != nil {
		return err
	}
	ev := sotwResponse(m)
	if ev.TypeURL == "" {
		ev.TypeURL = f.cfg.TypeURL
	}
	if ev.TypeURL != f.cfg.TypeURL && f.cfg.TypeURL != "" {
		return fmt.Errorf("%s: type_url is %q, expected %q", f.cfg.Path, ev.TypeURL, f.cfg.TypeURL)
	}
	ev.Nonce, ev.Now = "file-"+strconv.Itoa(serial), f.cfg.Clock()
	f.mu.Lock()
	f.permit = false
	f.mu.Unlock()
	f.cfg.Stats.Received(ev.TypeURL, proto.Size(m))
	f.cfg.Sink(ev)
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
)

func logger(t *testing.T, s *accesslog.Sink) []*accesslog.Logger {
	f, err := accesslog.Compile("%RESPONSE_CODE_DETAILS%\n")
	if err != nil {
		t.Fatal(err)
	}
	return []*accesslog.Logger{{Format: f, Sink: s}}
}

func read(t *testing.T, path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func eventually(t *testing.T, what string, ok func() bool) {
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func TestFiles_WhenLogIsRotated_ThenReopenWritesToTheNewFile(t *testing.T) {
	reg := stats.NewRegistry(1)
	f := NewFiles(Config{Workers: 1, Stats: reg, FlushInterval: time.Hour})
	path := filepath.Join(t.TempDir(), "a.log")
	s, err := f.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.Open(path)
	if err != nil || again != s {
		t.Fatalf("a path has one sink: %v %v", again, err)
	}
	w := accesslog.Writer{}
	w.Log(logger(t, s), &accesslog.Record{Details: "one"}, 0)
	w.Flush()
	eventually(t, "first line", func() bool { return read(t, path) == "one\n" })
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	f.Reopen()
	eventually(t, "new file", func() bool { _, err := os.Stat(path); return err == nil })
	w.Log(logger(t, s), &accesslog.Record{Details: "two"}, 0)
	w.Flush()
	s.Write([]byte("admin\n"))
	f.Close()
	if got := read(t, path); !strings.Contains(got, "two\n") || !strings.Contains(got, "admin\n") || read(t, path+".1") != "one\n" {
		t.Errorf("new %q old %q", got, read(t, path+".1"))
	}
	fs := reg.Scope("filesystem.", stats.FilesystemDef)
	for id, want := range map[int]int64{stats.FilesystemWriteBuffered: 3, stats.FilesystemWriteTotalBuffered: 0, stats.FilesystemReopenFailed: 0, stats.FilesystemWriteFailed: 0} {
		if v, _ := fs.Value(id); v != want {
			t.Errorf("%s = %d, want %d", stats.FilesystemDef.Stats[id].Name, v, want)
		}
	}
	if v, _ := fs.Value(stats.FilesystemWriteCompleted); v < 2 {
		t.Errorf("write_completed %d", v)
	}
}

func TestFiles_WhenPathCannotBeOpened_ThenErrorIsEnvoys(t *testing.T) {
	f := NewFiles(Config{Workers: 1, Stats: stats.NewRegistry(1)})
	_, err := f.Open("/nonexistent-dir/x.log")
	if err == nil || err.Error() != "unable to open file '/nonexistent-dir/x.log': no such file or directory" {
		t.Errorf("%v", err)
	}
	f.Close()
	if _, err := f.Open(Stdout); err == nil {
		t.Error("closed set opened a sink")
	}
}

func TestFiles_WhenReopenFails_ThenOldFileStaysAndFailureIsCounted(t *testing.T) {
	reg := stats.NewRegistry(1)
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f := NewFiles(Config{Workers: 1, Stats: reg, FlushInterval: time.Hour})
	s, err := f.Open(filepath.Join(dir, "a.log"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+"2"); err != nil {
		t.Fatal(err)
	}
	f.Reopen()
	fs := reg.Scope("filesystem.", stats.FilesystemDef)
	eventually(t, "reopen_failed", func() bool { v, _ := fs.Value(stats.FilesystemReopenFailed); return v == 1 })
	s.Write([]byte("x\n"))
	f.Close()
	if got := read(t, filepath.Join(dir+"2", "a.log")); got != "x\n" {
		t.Errorf("%q", got)
	}
}

func TestFiles_WhenStdout_ThenWrittenAtTimer(t *testing.T) {
	var out bytes.Buffer
	reg := stats.NewRegistry(1)
	f := NewFiles(Config{Workers: 1, Stats: reg, FlushInterval: 5 * time.Millisecond, Stdout: &out})
	s, err := f.Open(Stdout)
	if err != nil {
		t.Fatal(err)
	}
	fs := reg.Scope("filesystem.", stats.FilesystemDef)
	eventually(t, "timer", func() bool { v, _ := fs.Value(stats.FilesystemFlushedByTimer); return v > 0 })
	s.Write([]byte("line\n"))
	f.Close()
	if out.String() != "line\n" {
		t.Errorf("%q", out.String())
	}
}

// descriptors counts the open files below dir.
func descriptors(t *testing.T, dir string) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc: " + err.Error())
	}
	for _, e := range list {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, dir+"/") {
			n++
		}
	}
	return n
}

func TestFiles_WhenConfigurationsComeAndGo_ThenDescriptorsDoNotGrowAndNoLineIsLost(t *testing.T) {
	reg := stats.NewRegistry(1)
	f := NewFiles(Config{Workers: 1, Stats: reg, FlushInterval: time.Hour, FlushSize: 64 << 10})
	dir := t.TempDir()
	w := accesslog.Writer{}
	path := func(i int) string { return filepath.Join(dir, fmt.Sprint(i)) }
	s, err := f.Open(path(-1)) // a connection of the first configuration stays
	if err != nil {
		t.Fatal(err)
	}
	held := logger(t, s)
	for i := range 200 {
		s, err := f.Open(path(i))
		if err != nil {
			t.Fatal(err)
		}
		l := logger(t, s)
		for _, line := range []string{"first", "second"} {
			w.Log(l, &accesslog.Record{Details: line}, 0)
		}
		if i%50 == 0 {
			runtime.GC()
		}
	}
	runtime.GC()
	if n := descriptors(t, dir); n != 201 {
		t.Errorf("%d descriptors while the worker holds lines for 201 files", n)
	}
	w.Flush() // the worker's interval is over
	eventually(t, "files of the past closed", func() bool { runtime.GC(); return descriptors(t, dir) == 1 })
	for i := range 200 {
		if got := read(t, path(i)); got != "first\nsecond\n" {
			t.Fatalf("file %d: %q", i, got)
		}
	}
	w.Log(held, &accesslog.Record{Details: "still_here"}, 0)
	w.Flush()
	eventually(t, "line of the old connection", func() bool { return read(t, path(-1)) == "still_here\n" })
	again, err := f.Open(path(-1))
	if err != nil || again != held[0].Sink {
		t.Errorf("a path in use has one sink: %v", err)
	}
	if s, err = f.Open(path(7)); err != nil {
		t.Fatal(err)
	}
	w.Log(logger(t, s), &accesslog.Record{Details: "third"}, 0)
	w.Flush()
	f.Close()
	if got := read(t, path(7)); got != "first\nsecond\nthird\n" {
		t.Errorf("a path that came back: %q", got)
	}
	if n := descriptors(t, dir); n != 0 {
		t.Errorf("%d descriptors after Close", n)
	}
}

// TestFiles_WhenLinesWait_ThenTheFileIsWrittenAsEnvoyDoes: the first line at once, then when more than the flush size waits, else at the interval.
func TestFiles_WhenLinesWait_ThenTheFileIsWrittenAsEnvoyDoes(t *testing.T) {
	for _, kb := range []int{0, 1, 16, 64, 256} {
		t.Run(fmt.Sprint(kb), func(t *testing.T) {
			f := NewFiles(Config{Workers: 1, Stats: stats.NewRegistry(1), FlushInterval: time.Hour, FlushSize: kb << 10})
			defer f.Close()
			path := filepath.Join(t.TempDir(), "a.log")
			s, err := f.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			w, l, n := accesslog.Writer{}, logger(t, s), 0
			log := func() {
				w.Log(l, &accesslog.Record{Details: strings.Repeat("x", 99)}, 0)
				n += 100
			}
			written := func() int { return len(read(t, path)) }
			log()
			eventually(t, "first line", func() bool { return written() == 100 })
			for n-100 <= kb<<10 {
				if got := written(); got != 100 {
					t.Fatalf("%d bytes written when %d waited", got, n-100)
				}
				log()
			}
			for range 8 { // a chunk is handed over with its last line, so the sum may cross the size a line per chunk later
				log()
			}
			eventually(t, "more than the flush size", func() bool { return written() > 100+kb<<10 })
			if got := n - written(); got > 16<<10 {
				t.Errorf("%d bytes stayed behind", got)
			}
			w.Flush()
			eventually(t, "interval", func() bool { return written() == n })
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"os"
	"path/filepath"
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
	f.Release(s)
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

// SPDX-License-Identifier: Apache-2.0

package log

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"
)

func manager(t *testing.T, c Config) (*Manager, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	c.Out = &out
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m, &out
}

func TestLog_WhenPatternIsGiven_ThenLineFollowsIt(t *testing.T) {
	for pattern, want := range map[string]string{
		"%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t": `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\twarning\tenvoy config internal/telemetry/log/log_test.go:\d+\thi\nthere 5\tthread=\d+\n$`,
		"%L %n|%8l|%-8l|%=8l|%_|100%% %q":                    `^W config\| warning\|warning \|warning \|hi\\nthere 5\|100% %q\n$`,
		"[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v":            `^\[.*\.\d{3}\]\[\d+\]\[warning\]\[config\] \[internal/telemetry/log/log_test.go:\d+\] hi\nthere 5\n$`,
	} {
		m, out := manager(t, Config{Level: Info, Format: pattern})
		m.Log("warning", "config", "hi\nthere %d", 5)
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("%s gives %q", pattern, out.String())
		}
	}
}

func TestLog_WhenJSON_ThenEveryLineIsAnObject(t *testing.T) {
	m, out := manager(t, Config{JSON: map[string]any{"level": "%l", "msg": "%j", "time": "%Y-%m-%dT%T.%FZ"}})
	m.Log("error", "main", "quote \" and\nbreak")
	var got map[string]string
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got["level"] != "error" || got["msg"] != "quote \" and\nbreak" {
		t.Errorf("%q: %v", out.String(), err)
	}
	if _, err := New(Config{JSON: map[string]any{"a": "%v"}}); err == nil || !strings.Contains(err.Error(), "%v is unavailable") {
		t.Errorf("%v", err)
	}
}

func TestLevels_WhenSetPerLogger_ThenOnlyThatOneChanges(t *testing.T) {
	m, out := manager(t, Config{Level: Warning, Components: "http:debug,misc:error", Format: "%n %v"})
	m.Log("debug", "http", "a")
	m.Log("info", "main", "b")
	m.Log("warning", "no such logger", "c") // falls to misc, which takes errors only
	m.Logger("main").Logf(Critical, "d")
	m.SetAll(Off)
	m.Log("critical", "main", "e")
	if out.String() != "http a\nmain d\n" {
		t.Errorf("%q", out.String())
	}
	for _, bad := range []string{"nobody:debug", "http:loud", "http"} {
		if _, err := New(Config{Components: bad}); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	n := 0
	m.Levels(func(string, Level) { n++ })
	if n < 70 || m.SetLevel("nope", Debug) {
		t.Errorf("%d loggers", n)
	}
}

func TestSlog_WhenUsed_ThenAttributesFollowTheMessage(t *testing.T) {
	m, out := manager(t, Config{Level: Info, Format: "%l %n %v"})
	m.Slog("upstream").With("a", 1).WithGroup("g").Warn("msg", "k", "v")
	m.Slog("upstream").Debug("no")
	if out.String() != "warning upstream msg a=1 g.k=v\n" {
		t.Errorf("%q", out.String())
	}
}

func TestLimited_WhenRepeated_ThenSkippedOnesAreCounted(t *testing.T) {
	var l limiter
	now := time.Now()
	if ok, _ := l.allow("k", time.Second, now); !ok {
		t.Error("the first passes")
	}
	for range 3 {
		if ok, _ := l.allow("k", time.Second, now); ok {
			t.Error("too early")
		}
	}
	if ok, n := l.allow("k", time.Second, now.Add(2*time.Second)); !ok || n != 3 {
		t.Errorf("%v %d", ok, n)
	}
}

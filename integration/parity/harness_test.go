// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"strings"
	"testing"
)

func TestUnescape_WhenEscapesAreValid_ThenBytesComeOut(t *testing.T) {
	for in, want := range map[string]string{
		`a\r\n\t\\\0\x7f`: "a\r\n\t\\\x00\x7f",
		`\{3:ab\r}z`:      "ab\rab\rab\rz",
		``:                "",
	} {
		got, err := Unescape(in)
		if err != nil || string(got) != want {
			t.Errorf("Unescape(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, bad := range []string{`\q`, `\`, `\x1`, `\xzz`, `\{3`, `\{x:y}`} {
		if got, err := Unescape(bad); err == nil {
			t.Errorf("Unescape(%q) = %q, want an error", bad, got)
		}
	}
}

func TestCutMessage_WhenFramingVaries_ThenBodiesAreCutExactly(t *testing.T) {
	tests := []struct {
		name, in, method string
		eof              bool
		body, rest       string
		complete         bool
	}{
		{"length", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokNEXT", "GET", false, "ok", "NEXT", true},
		{"short length", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok", "GET", false, "ok", "", false},
		{"chunked", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nt: v\r\n\r\nN", "GET", false, "ok", "N", true},
		{"until close", "HTTP/1.1 200 OK\r\n\r\nok", "GET", true, "ok", "", true},
		{"head", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nN", "HEAD", false, "", "N", true},
		{"204", "HTTP/1.1 204 No Content\r\n\r\nN", "GET", false, "", "N", true},
		{"interim", "HTTP/1.1 100 Continue\r\n\r\nN", "GET", false, "", "N", true},
		{"connect", "HTTP/1.1 200 OK\r\n\r\nraw", "CONNECT", false, "", "raw", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, n := cutMessage([]byte(tt.in), true, tt.method, tt.eof)
			if m == nil {
				t.Fatal("no message")
			}
			if string(m.body) != tt.body || tt.in[n:] != tt.rest || m.complete != tt.complete {
				t.Errorf("body %q rest %q complete %v", m.body, tt.in[n:], m.complete)
			}
		})
	}
	if m, _ := cutMessage([]byte("HTTP/1.1 200 OK\r\ncontent"), true, "GET", false); m != nil {
		t.Error("an incomplete head is a message")
	}
}

func TestMoved_WhenCountersChange_ThenOnlyDataPlaneMovesAreShown(t *testing.T) {
	before := statSnapshot{"cluster.b.total": 1, "gone": 2, "same": 3, "http.admin.rq": 1}
	after := statSnapshot{"cluster.b.total": 4, "same": 3, "http.admin.rq": 9, "new": 1, "x.rx_bytes_buffered": 7, "skip.me": 1}
	if got, want := after.moved(before, []string{"skip."}, []string{"new"}), "cluster.b.total +3\ngone -2\nnew moved\n"; got != want {
		t.Errorf("moved = %q, want %q", got, want)
	}
}

func TestDiff_WhenSectionsDiffer_ThenOursOverridesAndIgnoreHolds(t *testing.T) {
	want := &Result{Sections: []Section{{"conn c", "a\nb\n"}, {"stats", "x +1\n"}, {"log main", "l\n"}}}
	got := &Result{Sections: []Section{{"conn c", "a\nc\n"}, {"stats", "x +2\n"}, {"backend b1", "extra\n"}}}
	d := Diff(want, got, nil, nil)
	for _, part := range []string{"--- conn c", "  - b\n  + c\n", "--- stats", "--- log main", "--- backend b1"} {
		if !strings.Contains(d, part) {
			t.Errorf("the difference lacks %q:\n%s", part, d)
		}
	}
	if d := Diff(want, got, []string{"stats"}, map[string]string{"conn c": "a\nc", "log": "*", "backend": "extra\n"}); d != "" {
		t.Errorf("unexpected difference:\n%s", d)
	}
}

func TestGolden_WhenWrittenAndRead_ThenUnchanged(t *testing.T) {
	g := &Group{Path: t.TempDir() + "/g.yaml", Cases: []*Case{{Name: "one"}, {Name: "two"}}}
	in := map[string]*Result{"one": {Case: "one", Sections: []Section{{"conn c", "=== not a case\n--- not a section\n  indented\n"}, {"stats", ""}}}, "two": {Case: "two"}}
	if err := writeGolden(g, in); err != nil {
		t.Fatal(err)
	}
	out, err := readGolden(goldenPath(g))
	if err != nil {
		t.Fatal(err)
	}
	for n := range in {
		if d := Diff(in[n], out[n], nil, nil); d != "" {
			t.Errorf("%s changed:\n%s", n, d)
		}
	}
}

func TestMerge_WhenNullInSource_ThenKeyIsDeleted(t *testing.T) {
	dst := map[string]any{"a": map[string]any{"b": 1, "c": 2}, "d": 3}
	merge(dst, map[string]any{"a": map[string]any{"b": nil, "e": 5}, "d": nil})
	if a := dst["a"].(map[string]any); len(a) != 2 || a["e"] != 5 || a["c"] != 2 || len(dst) != 1 {
		t.Errorf("merge = %v", dst)
	}
}

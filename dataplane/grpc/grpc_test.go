// SPDX-License-Identifier: Apache-2.0

package grpc

import (
	"bytes"
	"strconv"
	"testing"

	"sidecar/internal/telemetry/stats"
)

func TestFrames_WhenTheBodyIsCutAnywhere_ThenTheSameFrames(t *testing.T) {
	body := []byte("\x00\x00\x00\x00\x02hi" + "\x01\x00\x00\x00\x00" + "\x00\x00\x00\x01\x00" + string(bytes.Repeat([]byte("x"), 256)) + "\x00\x00\x00\x00\x05cut")
	for cut := range len(body) {
		var f Frames
		n := f.Count(body[:cut]) + f.Count(body[cut:])
		if n != 4 || f.Between() {
			t.Fatalf("cut at %d: %d frames, between %v", cut, n, f.Between())
		}
	}
	var f Frames
	n := uint64(0)
	for i := range body {
		n += f.Count(body[i : i+1])
	}
	if n != 4 {
		t.Errorf("byte by byte: %d frames", n)
	}
	if n := testing.AllocsPerRun(100, func() { var f Frames; f.Count(body) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFrames_WhenOnlyTheFirstByteIsHere_ThenTheFrameCounts(t *testing.T) {
	var f Frames
	if a, b, c := f.Count([]byte{0}), f.Count([]byte("\x00\x00\x00\x01x")), f.Count([]byte{0, 0}); a != 1 || b != 0 || c != 1 {
		t.Errorf("%d, %d, %d frames", a, b, c)
	}
}

func TestFrames_WhenTheLengthIsHuge_ThenNothingIsKept(t *testing.T) {
	var f Frames
	if n := f.Count([]byte("\x00\xff\xff\xff\xffabc")); n != 1 || f.Between() {
		t.Errorf("%d frames, between %v", n, f.Between())
	}
}

func TestSplitPath(t *testing.T) {
	for path, want := range map[string]string{"/a.B/C": "a.B C", "/a/b?q=/x": "a b", "/a": "", "a/b": "", "/a/": "", "//b": "", "/a/b/c": "", "": "", "/": ""} {
		s, m, ok := SplitPath([]byte(path))
		got := string(s) + " " + string(m)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q %v", path, got, ok)
		}
	}
}

func TestServerError_WhenStatusIsNoneOrTheServers(t *testing.T) {
	bad := map[string]bool{"": true, "x": true, "2": true, "4": true, "12": true, "13": true, "14": true, "15": true, "17": true, "99": true}
	for _, v := range []string{"", "x", "99", "17"} {
		if !ServerError([]byte(v)) {
			t.Errorf("%q is no failure", v)
		}
	}
	for i := range 17 {
		v := strconv.Itoa(i)
		if ServerError([]byte(v)) != bad[v] {
			t.Errorf("%s: failure %v", v, !bad[v])
		}
	}
}

func TestCountStatus(t *testing.T) {
	s := stats.NewRegistry(0).Scope("cluster.c.grpc.", stats.GrpcDef)
	b := s.Block(0)
	for _, v := range []string{"0", "14", "99", "x"} {
		CountStatus(b, []byte(v))
	}
	CountStatus(b, nil)
	for id, want := range map[int]int64{stats.GrpcStatus0: 1, stats.GrpcStatus0 + 14: 1, stats.GrpcSuccess: 1, stats.GrpcFailure: 3, stats.GrpcTotal: 4} {
		if got := b.Load(id); got != want {
			t.Errorf("%s is %d, not %d", stats.GrpcDef.Stats[id].Name, got, want)
		}
	}
}

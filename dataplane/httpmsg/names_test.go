// SPDX-License-Identifier: Apache-2.0

package httpmsg

import (
	"strings"
	"testing"
)

func TestLookup_WhenNameIsWellKnown_ThenItsID(t *testing.T) {
	seen := map[string]bool{}
	for id := IDOther + 1; id < numIDs; id++ {
		s := id.String()
		if s == "" || seen[s] || Lookup(s) != id || LookupBytes([]byte(s)) != id || KeyOf(s).ID != id {
			t.Errorf("%d %q: %d", id, s, Lookup(s))
		}
		seen[s] = true
		for _, other := range []string{s + "x", "x" + s, s[:len(s)-1], s[1:]} {
			if id := Lookup(other); id.String() != other && id != IDOther {
				t.Errorf("%q: %d", other, id)
			}
		}
	}
	for _, s := range []string{"", "x", "Host", "hosu"} {
		if LookupBytes([]byte(s)) != IDOther {
			t.Errorf("%q is well known", s)
		}
	}
}

// ScanName against the plain way: every name in every spelling of one letter, and with every other byte in every place.
func TestScanName_WhenOneByteDiffers_ThenOnlyCaseIsForgiven(t *testing.T) {
	for id := IDOther + 1; id < numIDs; id++ {
		line := id.String() + ": value\r\n"
		for i := range len(id.String()) + 1 {
			for c := range 256 {
				b := []byte(line)
				b[i] = byte(c)
				want := IDOther
				if name, _, ok := strings.Cut(string(b), ":"); ok {
					want = Lookup(lower(name))
				}
				before := string(b)
				got, n := ScanName(b)
				if got != want || n != len(want.String()) {
					t.Fatalf("%q: %d %q of %d bytes, want %q", before, got, got, n, want)
				}
				if after := want.String() + before[n:]; string(b) != after {
					t.Fatalf("%q became %q, want %q", before, b, after)
				}
			}
		}
		upper := []byte(strings.ToUpper(line))
		if got, n := ScanName(upper); got != id || string(upper[:n]) != id.String() {
			t.Errorf("%q: %d %q", line, got, upper)
		}
	}
	for _, s := range []string{"", ":", "te:", "x: 1234567", ":path: /", "accept", "accept-encoding", strings.Repeat("x", 100)} {
		if id, n := ScanName([]byte(s)); id != IDOther || n != 0 {
			t.Errorf("%q: %d, %d", s, id, n)
		}
	}
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 0x20
		}
	}
	return string(b)
}

func TestFields_WhenSetAndRemoved_ThenOneValueOrNone(t *testing.T) {
	h := headWithPath("/")
	x, cookie := KeyOf("X-One"), IDCookie.Key()
	for _, k := range []Key{x, cookie} {
		h.AddString(k, "1")
		h.AddString(k, "2")
		h.AddString(KeyOf("x-two"), "t")
		h.SetString(k, "3")
		if v, ok := h.GetKey(k); !ok || string(v) != "3" || h.FindKey(k, h.FindKey(k, 0)+1) >= 0 || h.FindName(k.Name, 0) < 0 {
			t.Errorf("%s: %q %v", k.Name, v, ok)
		}
		h.AddString(k, "4")
		if n := h.Remove(k); n != 2 {
			t.Errorf("%s: removed %d", k.Name, n)
		}
		if _, ok := h.GetKey(k); ok {
			t.Errorf("%s is still there", k.Name)
		}
	}
	if h.Live() != 2 {
		t.Errorf("%d fields", h.Live())
	}
	var c Head
	c.Reset(new(Arena))
	c.CopyHead(h, c.A)
	if c.Live() != 2 || len(c.List) != 2 || string(c.Path()) != "/" {
		t.Errorf("copy: %d fields of %d, path %q", c.Live(), len(c.List), c.Path())
	}
	if g := c.Grow(IDVia); *g != (Field{ID: IDVia}) {
		t.Errorf("grown field %+v", *g)
	}
}

// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	oracle "golang.org/x/net/http2/hpack"
)

// readStories returns the blocks of each story as fields.
func readStories(t testing.TB) map[string][][]header {
	t.Helper()
	files, err := filepath.Glob("testdata/stories/*.fields")
	if err != nil || len(files) != 9 {
		t.Fatal(files, err)
	}
	out := map[string][][]header{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		story := strings.TrimSuffix(filepath.Base(name), ".fields")
		for block := range strings.SplitSeq(string(b), "\n\n") {
			var hs []header
			for line := range strings.SplitSeq(strings.TrimSuffix(block, "\n"), "\n") {
				i := strings.Index(line[1:], ": ") + 1
				hs = append(hs, header{name: line[:i], value: line[i+2:]})
			}
			out[story] = append(out[story], hs)
		}
	}
	return out
}

func TestDecoder_WhenGivenTheStoriesOfOtherEncoders_ThenTheFieldsAreTheirs(t *testing.T) {
	stories := readStories(t)
	files, err := filepath.Glob("testdata/stories/*.wire")
	if err != nil || len(files) != 7 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		decoders, at := map[string]*Decoder{}, map[string]int{}
		for line := range strings.Lines(string(b)) {
			w := strings.Fields(line)
			story := w[0]
			d := decoders[story]
			if d == nil {
				d = newDecoder(DefaultTable)
				decoders[story] = d
			}
			if w[1] != "-" {
				size, err := strconv.ParseUint(w[1], 10, 32)
				if err != nil {
					t.Fatal(err)
				}
				d.SetMaxTable(uint32(size))
			}
			i := at[story]
			at[story]++
			got, e := decodeAll(t, d, unhex(t, w[2]))
			if want := stories[story][i]; e != None || !equal(got, want) {
				t.Fatalf("%s, story %s, block %d: %v\n%v\nwant\n%v", name, story, i, e, got, want)
			}
		}
		for story, blocks := range stories {
			if at[story] != len(blocks) {
				t.Errorf("%s, story %s: %d blocks of %d", name, story, at[story], len(blocks))
			}
		}
	}
}

func TestEncoder_WhenGivenTheStories_ThenTheOracleReadsThem(t *testing.T) {
	for story, blocks := range readStories(t) {
		for _, size := range []uint32{0, 300, DefaultTable} {
			e, o := newEncoder(DefaultTable), oracle.NewDecoder(DefaultTable, nil)
			raw, sent := 0, 0
			for i, want := range blocks {
				if i == 1 {
					e.SetPeerTable(size)
				}
				wire := encodeAll(e, nil, want)
				if got, err := oracleFields(o, wire); err != nil || !equal(got, want) {
					t.Fatalf("story %s, block %d, table %d: %v\n%v\nwant\n%v", story, i, size, err, got, want)
				}
				checkTable(t, &e.table)
				sent += len(wire)
				for _, h := range want {
					raw += len(h.name) + len(h.value)
				}
			}
			if sent > raw || size == DefaultTable && len(blocks) >= 10 && sent > raw*7/10 {
				t.Errorf("story %s, table %d: %d octets sent for %d", story, size, sent, raw)
			}
		}
	}
}

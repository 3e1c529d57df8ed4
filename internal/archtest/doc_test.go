// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestDocument_WhenARoomIsAddedOrGone_ThenTheArchitectureSaysSo: docs/architecture.md names every room in the order of the house, and none that is not there.
func TestDocument_WhenARoomIsAddedOrGone_ThenTheArchitectureSaysSo(t *testing.T) {
	b, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(b), "\n## Rooms\n")
	table, _, _ = strings.Cut(table, "\n**Imports**")
	rooms := map[string]bool{}
	for _, f := range load(t) {
		rooms[f.room] = true
	}
	last := -1
	for _, room := range order {
		at := strings.Index(table, "`"+room+"`")
		switch {
		case !rooms[room]:
			continue // its place in the order waits for it
		case at < 0:
			t.Errorf("docs/architecture.md does not name the room %s", room)
		case at < last:
			t.Errorf("docs/architecture.md names %s out of order", room)
		}
		last = max(last, at)
	}
	for i, part := range strings.Split(table, "`") {
		if i%2 == 1 && !rooms[part] && !slices.Contains(basement, part) {
			t.Errorf("docs/architecture.md names %s, which is not a room", part)
		}
	}
}

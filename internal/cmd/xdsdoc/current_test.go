// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"
)

// TestFile_WhenTablesChange_ThenTheCommittedDocumentFollows fails until `go run ./internal/cmd/xdsdoc` was run.
func TestFile_WhenTablesChange_ThenTheCommittedDocumentFollows(t *testing.T) {
	old, err := os.ReadFile("../../../docs/xds-support.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(old) != document().Markdown() {
		t.Fatal("docs/xds-support.md is not up to date: run go run ./internal/cmd/xdsdoc in the root of the module")
	}
}

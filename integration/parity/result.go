// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// Section is one comparable part of a case's outcome.
type Section struct {
	Name string
	Text string
}

// Result is the outcome of one case: sections in order.
type Result struct {
	Case     string
	Sections []Section
	// output is everything a validate case printed; it is matched by substring, never recorded.
	output string
}

func (r *Result) add(name, text string) { r.Sections = append(r.Sections, Section{name, text}) }

// early returns the sections that are complete when the client has its answer: all but logs and statistics.
func (r *Result) early() *Result {
	out := &Result{Case: r.Case}
	for _, s := range r.Sections {
		if s.Name != "stats" && !strings.HasPrefix(s.Name, "log ") {
			out.Sections = append(out.Sections, s)
		}
	}
	return out
}

// Get returns a section's text, empty when absent.
func (r *Result) Get(name string) string {
	if r == nil {
		return ""
	}
	for _, s := range r.Sections {
		if s.Name == name {
			return s.Text
		}
	}
	return ""
}

// String renders the result as it stands in a golden file.
func (r *Result) String() string {
	var w strings.Builder
	fmt.Fprintf(&w, "=== %s\n", r.Case)
	for _, s := range r.Sections {
		if s.Text == "" {
			continue
		}
		fmt.Fprintf(&w, "--- %s\n", s.Name)
		for _, line := range strings.Split(strings.TrimSuffix(s.Text, "\n"), "\n") {
			w.WriteString(strings.TrimRight("  "+line, " ") + "\n")
		}
	}
	return w.String()
}

func goldenPath(g *Group) string { return strings.TrimSuffix(g.Path, ".yaml") + ".golden" }

// readGolden reads the recorded results of a group; the map is nil when the file does not exist.
func readGolden(file string) (map[string]*Result, error) {
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]*Result{}
	var r *Result
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "=== "):
			r = &Result{Case: line[4:]}
			out[r.Case] = r
		case r == nil:
			if !strings.HasPrefix(line, "#") {
				return nil, fmt.Errorf("%s:%d: text before the first case", file, i+1)
			}
		case strings.HasPrefix(line, "--- "):
			r.add(line[4:], "")
		case len(r.Sections) > 0:
			s := &r.Sections[len(r.Sections)-1]
			s.Text += strings.TrimPrefix(line, "  ") + "\n"
		}
	}
	return out, nil
}

// writeGolden writes results in the order of the case file, keeping earlier ones of cases that did not run.
func writeGolden(g *Group, fresh map[string]*Result) error {
	old, err := readGolden(goldenPath(g))
	if err != nil {
		return err
	}
	var w strings.Builder
	w.WriteString("# Recorded from Envoy 1.40.0 by integration/parity/cmd/parity -record. Do not edit.\n")
	names := make([]string, 0, len(g.Cases)+len(g.Validate))
	for _, c := range g.Cases {
		names = append(names, c.Name)
	}
	for _, c := range g.Validate {
		names = append(names, c.Name)
	}
	for _, n := range names {
		r := fresh[n]
		if r == nil {
			r = old[n]
		}
		if r != nil {
			w.WriteString(r.String())
		}
	}
	return os.WriteFile(goldenPath(g), []byte(w.String()), 0o644)
}

// trimmed gives the text as a golden file would return it (no space at line ends).
func trimmed(s string) string {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	out := strings.Join(lines, "\n")
	if out == "" {
		return ""
	}
	return out + "\n"
}

// Diff compares got with want, section by section, and returns a readable difference, empty when equal. Sections whose name or first word
// is in ignore are skipped; ours replaces the expectation of single sections ("*": anything).
func Diff(want, got *Result, ignore []string, ours map[string]string) string {
	var w strings.Builder
	seen := map[string]bool{}
	for _, list := range [][]Section{want.Sections, got.Sections} {
		for _, s := range list {
			if seen[s.Name] {
				continue
			}
			seen[s.Name] = true
			diffSection(&w, s.Name, want, got, ignore, ours)
		}
	}
	for name := range ours {
		// A key that is only a first word ("backend") holds for the sections already seen.
		if !seen[name] && (strings.Contains(name, " ") || name == "stats") {
			diffSection(&w, name, want, got, ignore, ours)
		}
	}
	return w.String()
}

// ignored reports whether the list names the section or its first word.
func ignored(name string, list []string) bool {
	word, _, _ := strings.Cut(name, " ")
	return slices.Contains(list, name) || slices.Contains(list, word)
}

func diffSection(w *strings.Builder, name string, want, got *Result, ignore []string, ours map[string]string) {
	if ignored(name, ignore) {
		return
	}
	word, _, _ := strings.Cut(name, " ")
	expect, own := ours[name]
	if !own {
		expect, own = ours[word]
	}
	if !own {
		expect = want.Get(name)
	}
	if own && expect == "*" {
		return
	}
	a, b := trimmed(expect), trimmed(got.Get(name))
	if a == b {
		return
	}
	fmt.Fprintf(w, "--- %s (- expected, + got)\n%s", name, lineDiff(a, b))
}

// lineDiff is a longest-common-subsequence diff; inputs are short.
func lineDiff(a, b string) string {
	x, y := strings.SplitAfter(a, "\n"), strings.SplitAfter(b, "\n")
	if len(x)*len(y) > 4<<20 {
		return "- " + a + "+ " + b
	}
	l := make([][]int, len(x)+1)
	for i := range l {
		l[i] = make([]int, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				l[i][j] = l[i+1][j+1] + 1
			} else {
				l[i][j] = max(l[i+1][j], l[i][j+1])
			}
		}
	}
	var w strings.Builder
	line := func(mark, s string) {
		if s != "" {
			w.WriteString(mark + strings.TrimSuffix(s, "\n") + "\n")
		}
	}
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			line("    ", x[i])
			i, j = i+1, j+1
		case j == len(y) || i < len(x) && l[i+1][j] >= l[i][j+1]:
			line("  - ", x[i])
			i++
		default:
			line("  + ", y[j])
			j++
		}
	}
	return w.String()
}

// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"
)

// Verdict is what one case came to.
type Verdict struct {
	Name string
	// Diff is empty when the case is as expected.
	Diff string
	// Got is the full outcome.
	Got *Result
	// Unsteady is what differed the first time, when the case was as expected once it ran alone; see Suite.Again.
	Unsteady string
}

// Suite runs groups in parallel and compares them.
type Suite struct {
	Groups []*Group
	// Select chooses cases by full name.
	Select func(string) bool
	// Parallel bounds how many groups run at once (default 3).
	Parallel int
	// Again is how often a case that differs runs once more, on a fresh process and alone: many cases order two events by a pause, and a machine
	// that stalls for longer than the pause turns them around. What differs each time is a difference.
	Again int
	// Only restricts the comparison to sections with these first words (conn, backend, log, stats, admin); empty compares all.
	Only []string
	// Self says that the binary under test is the reference itself: own expectations do not apply. It checks the harness.
	Self bool
}

// each calls f for every group with a selected case, at most Parallel at once.
func (s *Suite) each(f func(*Group) error) error {
	sem := make(chan struct{}, max(1, s.Parallel))
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []string
	for _, g := range s.Groups {
		any := false
		for _, n := range g.CaseNames() {
			any = any || s.Select(n)
		}
		if !any {
			continue
		}
		wg.Add(1)
		sem <- struct{}{}
		go func() {
			defer func() { <-sem; wg.Done() }()
			if err := f(g); err != nil {
				mu.Lock()
				errs = append(errs, err.Error())
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	if len(errs) > 0 {
		return fmt.Errorf("%s", strings.Join(errs, "\n"))
	}
	return nil
}

// Record runs the reference and writes the goldens. It returns the names recorded.
func (s *Suite) Record(ref *Runner) (names []string, err error) {
	var mu sync.Mutex
	err = s.each(func(g *Group) error {
		res, err := ref.RunGroup(g, s.Select, nil)
		if err != nil {
			return err
		}
		for n, r := range res {
			if r.Get("error") != "" {
				return fmt.Errorf("%s/%s: %s", g.Name, n, r.Get("error"))
			}
			mu.Lock()
			names = append(names, g.Name+"/"+n)
			mu.Unlock()
		}
		for _, c := range g.Cases {
			dropIgnored(res[c.Name], c.Ignore)
		}
		return writeGolden(g, res)
	})
	sort.Strings(names)
	return names, err
}

// dropIgnored removes sections that are never compared, so that goldens hold no noise.
func dropIgnored(r *Result, ignore []string) {
	if r == nil {
		return
	}
	r.Sections = slices.DeleteFunc(r.Sections, func(s Section) bool { return ignored(s.Name, ignore) })
}

// Compare runs ours against the goldens, or against a live reference when ref is not nil.
func (s *Suite) Compare(ours, ref *Runner) (verdicts []Verdict, err error) {
	var mu sync.Mutex
	if s.Self {
		for _, g := range s.Groups {
			for _, c := range g.Cases {
				c.Ours = nil
			}
		}
	}
	wants := map[*Group]map[string]*Result{}
	err = s.each(func(g *Group) error {
		want, err := readGolden(goldenPath(g))
		if ref != nil {
			want, err = ref.RunGroup(g, s.Select, nil)
		}
		if err != nil {
			return err
		}
		got, err := ours.RunGroup(g, s.Select, want)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		wants[g] = want
		verdicts = append(verdicts, s.judge(g, want, got)...)
		return nil
	})
	if err == nil {
		err = s.again(ours, wants, verdicts)
	}
	sort.Slice(verdicts, func(i, j int) bool { return verdicts[i].Name < verdicts[j].Name })
	return verdicts, err
}

// again repeats the cases that differ, one at a time.
func (s *Suite) again(ours *Runner, wants map[*Group]map[string]*Result, verdicts []Verdict) error {
	for i := range verdicts {
		v := &verdicts[i]
		first := v.Diff
		for n := 0; n < s.Again && v.Diff != ""; n++ {
			only := *s
			only.Select = func(name string) bool { return name == v.Name }
			for g, want := range wants {
				if !slices.Contains(g.CaseNames(), v.Name) {
					continue
				}
				got, err := ours.RunGroup(g, only.Select, want)
				if err != nil {
					return err
				}
				if one := only.judge(g, want, got); len(one) == 1 && one[0].Diff == "" {
					*v = Verdict{Name: v.Name, Got: one[0].Got, Unsteady: first}
				}
			}
		}
	}
	return nil
}

// kept returns the sections that Only leaves.
func (s *Suite) kept(r *Result) *Result {
	if len(s.Only) == 0 {
		return r
	}
	out := &Result{Case: r.Case}
	for _, sec := range r.Sections {
		if ignored(sec.Name, s.Only) || sec.Name == "error" {
			out.Sections = append(out.Sections, sec)
		}
	}
	return out
}

func (s *Suite) judge(g *Group, want, got map[string]*Result) (out []Verdict) {
	verdict := func(name string, f func(w, r *Result) string) {
		full := g.Name + "/" + name
		if !s.Select(full) {
			return
		}
		v := Verdict{Name: full, Got: got[name]}
		switch {
		case want[name] == nil:
			v.Diff = "no recorded answer: run cmd/parity -record -case " + full + "\n"
		case got[name] == nil:
			v.Diff = "not run: the proxy did not start\n"
		default:
			v.Diff = f(want[name], got[name])
		}
		out = append(out, v)
	}
	for _, c := range g.Cases {
		verdict(c.Name, func(w, r *Result) string { return Diff(s.kept(w), s.kept(r), c.Ignore, c.Ours) })
	}
	for _, c := range g.Validate {
		verdict(c.Name, func(w, r *Result) string {
			var ours map[string]string
			if s.Self {
				return Diff(w, r, nil, nil)
			}
			if c.Differs != "" {
				ours = map[string]string{"exit": fmt.Sprint(c.OursExit)}
			}
			d := Diff(w, r, nil, ours)
			for _, text := range c.Contains {
				if !strings.Contains(r.output, text) {
					d += fmt.Sprintf("the output does not contain %q:\n%s\n", text, r.output)
				}
			}
			return d
		})
	}
	return out
}

// ReadKnown reads known_failing.txt: one case name and a reason per line. Every name must exist.
func ReadKnown(file string, groups []*Group) (map[string]string, error) {
	text, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	exists := map[string]bool{}
	for _, g := range groups {
		for _, n := range g.CaseNames() {
			exists[n] = true
		}
	}
	known := map[string]string{}
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, reason, _ := strings.Cut(line, " ")
		if !exists[name] || strings.TrimSpace(reason) == "" {
			return nil, fmt.Errorf("%s:%d: %q is not a case, or has no reason", file, i+1, name)
		}
		known[name] = strings.TrimSpace(reason)
	}
	return known, nil
}

// WriteKnown rewrites known_failing.txt from verdicts: passing cases go, kept ones keep their reason, new ones get "not yet judged".
// Cases that did not run keep their line.
func WriteKnown(file string, known map[string]string, verdicts []Verdict) error {
	for _, v := range verdicts {
		if v.Diff == "" {
			delete(known, v.Name)
		} else if known[v.Name] == "" {
			known[v.Name] = "not yet judged"
		}
	}
	var w strings.Builder
	w.WriteString("# Cases that sidecar does not pass yet: name, then the reason. A listed case that passes is an error.\n")
	for _, n := range sortedKeys(known) {
		fmt.Fprintf(&w, "%s %s\n", n, known[n])
	}
	return os.WriteFile(file, []byte(w.String()), 0o644)
}

// CheckDiffers returns an error for every case whose differs text docs/differences.md does not know: it must be how the first cell of a table
// row begins. pending lists texts whose row is still to be written; one that has a row is an error too, so that the list cannot rot.
func CheckDiffers(doc string, groups []*Group, pending []string) error {
	text, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	var wrong []string
	check := func(name, key string) {
		has := len(key) >= 6 && strings.Contains(string(text), "\n| "+key)
		if key != "" && has == slices.Contains(pending, key) {
			wrong = append(wrong, fmt.Sprintf("%s: differs: %q: row found: %v", name, key, has))
		}
	}
	for _, g := range groups {
		for _, c := range g.Cases {
			check(g.Name+"/"+c.Name, c.Differs)
		}
		for _, c := range g.Validate {
			check(g.Name+"/"+c.Name, c.Differs)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s does not fit the cases:\n%s", doc, strings.Join(wrong, "\n"))
	}
	return nil
}

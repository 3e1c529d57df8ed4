// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "sidecar"

// file is one parsed Go file of the module.
type file struct {
	path      string // from the module's root, with slashes
	room      string // its directory
	test      bool
	generated bool
	lines     int
	head      string // first line
	ast       *ast.File
	imports   map[string]string // path → local name
}

var fset = token.NewFileSet()

// load parses every Go file of the module.
func load(t *testing.T) []*file {
	t.Helper()
	root := "."
	for ; ; root = filepath.Join(root, "..") {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		if len(root) > 64 {
			t.Fatal("no go.mod above")
		}
	}
	var out []*file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && p != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parse(filepath.ToSlash(rel), src)
		if err != nil {
			return err
		}
		out = append(out, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 100 {
		t.Fatalf("only %d files found", len(out))
	}
	return out
}

func parse(rel string, src []byte) (*file, error) {
	a, err := parser.ParseFile(fset, rel, src, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	f := &file{path: rel, room: path.Dir(rel), test: strings.HasSuffix(rel, "_test.go"), ast: a, lines: strings.Count(string(src), "\n"),
		imports: map[string]string{}}
	f.head, _, _ = strings.Cut(string(src), "\n")
	f.generated = strings.HasPrefix(f.head, "// Code generated")
	for _, x := range a.Imports {
		p, err := strconv.Unquote(x.Path.Value)
		if err != nil {
			return nil, err
		}
		f.imports[p] = path.Base(p)
		if x.Name != nil {
			f.imports[p] = x.Name.Name
		}
	}
	return f, nil
}

// in tells whether room is one of rooms, or below one that ends in '/'.
func in(room string, rooms []string) bool {
	for _, r := range rooms {
		if room == r || strings.HasSuffix(r, "/") && strings.HasPrefix(room+"/", r) {
			return true
		}
	}
	return false
}

// place is a room's position in order, -1 for the basement; ok is false for a room that has no place yet.
func place(room string) (at int, ok bool) {
	if in(room, basement) {
		return -1, true
	}
	at = slices.Index(order, room)
	return at, at >= 0
}

// tower is 1 for the worker tower, 2 for the control tower, 0 for the shared floors and above.
func tower(at int) int {
	w, c, s := slices.Index(order, workerTower), slices.Index(order, controlTower), slices.Index(order, services)
	switch {
	case at >= w && at < c:
		return 1
	case at >= c && at < s:
		return 2
	}
	return 0
}

// floors reports the imports of f that go up, sideways or into the other tower.
func floors(f *file) (bad []string) {
	at, ok := place(f.room)
	if !ok {
		return []string{f.room + ": this room has no place in the order of rules_test.go"}
	}
	if at < 0 {
		return nil
	}
	for p := range f.imports {
		to, inside := strings.CutPrefix(p, module+"/")
		if !inside || to == f.room {
			continue
		}
		other, ok := place(to)
		switch {
		case !ok:
			bad = append(bad, f.path+": imports "+to+", which has no place")
		case other < 0:
			bad = append(bad, f.path+": imports "+to+" of the basement")
		case other > at:
			bad = append(bad, f.path+": imports "+to+", which is above")
		case tower(at)+tower(other) == 3:
			bad = append(bad, f.path+": imports "+to+" of the other tower")
		}
	}
	return bad
}

// fenced reports the imports of f that belong to other rooms.
func fenced(f *file) (bad []string) {
	for p := range f.imports {
		for i := range fences {
			x := &fences[i]
			if p != x.pkg && !strings.HasPrefix(p, strings.TrimSuffix(x.pkg, "/")+"/") {
				continue
			}
			if p == "net/http/httptrace" || in(f.room, x.rooms) && !(in(f.room, noProto) && slices.Equal(x.rooms, protoRooms)) {
				continue
			}
			bad = append(bad, f.path+": imports "+p+" ("+x.why+")")
		}
	}
	return bad
}

// banned reports what a file of dataplane/** must not use, and used collects the exceptions that it needs.
func banned(f *file, used map[string]bool) (bad []string) {
	if !strings.HasPrefix(f.path, "dataplane/") {
		return nil
	}
	allowed := dataplaneFiles[f.path].uses
	deny := func(what string) {
		if slices.Contains(allowed, what) {
			used[f.path+" "+what] = true
			return
		}
		bad = append(bad, f.path+": "+what+" is banned in the data plane")
	}
	for _, p := range bannedImports {
		if _, ok := f.imports[p]; ok {
			deny(p)
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		switch x := n.(type) {
		case *ast.GoStmt:
			deny("go")
		case *ast.ChanType, *ast.SendStmt, *ast.SelectStmt:
			deny("chan")
		case *ast.UnaryExpr:
			if x.Op == token.ARROW {
				deny("chan")
			}
		case *ast.SelectorExpr:
			if call := globalCall(f, x); call != "" && globalCalls[f.path] == "" {
				bad = append(bad, f.path+": "+call+" is banned in the data plane")
			}
		}
		return true
	})
	return bad
}

// globalCall is the banned function that x names, "" if none.
func globalCall(f *file, x *ast.SelectorExpr) string {
	id, ok := x.X.(*ast.Ident)
	if !ok {
		return ""
	}
	for pkg, names := range globals {
		if f.imports[pkg] == id.Name && slices.Contains(names, x.Sel.Name) {
			return pkg + "." + x.Sel.Name
		}
	}
	return ""
}

// form reports files without licence, bad package names, long files and long functions.
func form(f *file, used map[string]bool) (bad []string) {
	if f.generated {
		return nil
	}
	if f.head != "// SPDX-License-Identifier: Apache-2.0" {
		bad = append(bad, f.path+": the first line must be the SPDX licence line")
	}
	if slices.Contains(badNames, strings.TrimSuffix(f.ast.Name.Name, "_test")) {
		bad = append(bad, f.path+": package "+f.ast.Name.Name+" says nothing")
	}
	if f.lines > maxFile {
		bad = append(bad, f.path+": "+strconv.Itoa(f.lines)+" lines, at most "+strconv.Itoa(maxFile))
	}
	if f.test {
		return bad
	}
	for _, d := range f.ast.Decls {
		fd, ok := d.(*ast.FuncDecl)
		if !ok || fd.Body == nil {
			continue
		}
		n := fset.Position(fd.End()).Line - fset.Position(fd.Pos()).Line + 1
		if n <= maxFunc || fd.Doc != nil && slices.ContainsFunc(longWhy, func(w string) bool { return strings.Contains(strings.ToLower(fd.Doc.Text()), w) }) {
			continue
		}
		if key := f.path + " " + fd.Name.Name; longFuncs[key] != "" {
			used[key] = true
			continue
		}
		bad = append(bad, f.path+": "+fd.Name.Name+" has "+strconv.Itoa(n)+" lines; split it or say in its comment why it is long")
	}
	return bad
}

func report(t *testing.T, bad []string) {
	t.Helper()
	slices.Sort(bad)
	for _, b := range slices.Compact(bad) {
		t.Error(b)
	}
}

func TestImports_WhenTheModuleIsWalked_ThenFloorsAndFencesHold(t *testing.T) {
	var bad []string
	for _, f := range load(t) {
		if !f.test {
			bad = append(append(bad, floors(f)...), fenced(f)...)
		}
	}
	report(t, bad)
}

func TestDataPlane_WhenTheModuleIsWalked_ThenNothingBannedIsUsed(t *testing.T) {
	used := map[string]bool{}
	var bad []string
	for _, f := range load(t) {
		if !f.test {
			bad = append(bad, banned(f, used)...)
		}
	}
	for p, x := range dataplaneFiles {
		for _, what := range x.uses {
			if !used[p+" "+what] {
				bad = append(bad, p+": the exception for "+what+" is not needed any more")
			}
		}
	}
	report(t, bad)
}

func TestForm_WhenTheModuleIsWalked_ThenFilesAndFunctionsAreInShape(t *testing.T) {
	used := map[string]bool{}
	var bad []string
	for _, f := range load(t) {
		bad = append(bad, form(f, used)...)
	}
	for key := range longFuncs {
		if !used[key] {
			t.Logf("%s: the exception is not needed any more", key)
		}
	}
	report(t, bad)
}

// The rules themselves: each must find its violation.
func TestRules_WhenAFileBreaksOne_ThenItIsFound(t *testing.T) {
	tests := []struct{ path, src, want string }{
		{"dataplane/loop/x.go", "package loop\nimport _ \"sidecar/dataplane/conn\"", "which is above"},
		{"dataplane/conn/x.go", "package conn\nimport _ \"sidecar/dataplane/loop\"", ""},
		{"dataplane/worker/x.go", "package worker\nimport _ \"sidecar/xds/ads\"", "which is above"},
		{"xds/ads/x.go", "package ads\nimport _ \"sidecar/dataplane/loop\"", "other tower"},
		{"xds/ads/x.go", "package ads\nimport _ \"google.golang.org/protobuf/proto\"", "plain values"},
		{"xds/controller/x.go", "package controller\nimport _ \"google.golang.org/protobuf/proto\"", ""},
		{"dataplane/route/x.go", "package route\nimport _ \"github.com/envoyproxy/go-control-plane/envoy/type/v3\"", "plain values"},
		{"dataplane/conn/x.go", "package conn\nimport _ \"golang.org/x/sys/unix\"", "one door"},
		{"internal/app/x.go", "package app\nimport _ \"sidecar/internal/archtest\"", "basement"},
		{"dataplane/new/x.go", "package new", "no place"},
		{"dataplane/conn/x.go", "package conn\nimport _ \"sync\"", "sync is banned"},
		{"dataplane/conn/x.go", "package conn\nfunc f() { go f() }", "go is banned"},
		{"dataplane/conn/x.go", "package conn\nvar c chan int", "chan is banned"},
		{"dataplane/conn/x.go", "package conn\nfunc f(c any) { <-c.(C) }", "chan is banned"},
		{"dataplane/loop/date.go", "package loop\nimport t \"time\"\nvar x = t.Now()", "time.Now is banned"},
		{"dataplane/loop/date.go", "package loop\nimport \"time\"\nvar x = time.Unix(1, 0)", ""},
		{"dataplane/conn/x.go", "package util", "says nothing"},
		{"dataplane/conn/x.go", "package conn\nfunc f() {" + strings.Repeat("\n", 80) + "}", "has 81 lines"},
		{"dataplane/conn/x.go", "package conn\n// f is long because.\nfunc f() {" + strings.Repeat("\n", 80) + "}", ""},
		{"dataplane/conn/x.go", "package conn\n" + strings.Repeat("\n", 800), "at most 800"},
	}
	for _, test := range tests {
		f, err := parse(test.path, []byte("// SPDX-License-Identifier: Apache-2.0\n"+test.src))
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(slices.Concat(floors(f), fenced(f), banned(f, map[string]bool{}), form(f, map[string]bool{})), "; ")
		if test.want == "" && got != "" || !strings.Contains(got, test.want) {
			t.Errorf("%s %q: found %q, want %q", test.path, test.src[:min(len(test.src), 60)], got, test.want)
		}
	}
	f, _ := parse("dataplane/conn/x.go", []byte("package conn\n"))
	if len(form(f, nil)) != 1 {
		t.Error("a missing licence line was not found")
	}
	f, _ = parse("ebpf/x.go", []byte("// Code generated by x. DO NOT EDIT.\npackage ebpf\n"))
	if len(form(f, nil)) != 0 {
		t.Error("generated files need no licence line")
	}
}

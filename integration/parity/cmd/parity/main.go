// SPDX-License-Identifier: Apache-2.0

// Command parity runs the parity cases by hand: it records Envoy's answers, compares sidecar with them, or compares both live.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sidecar/integration/parity"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ours := flag.String("ours", "", "sidecar binary")
	envoy := flag.String("envoy", "", "Envoy binary (default: $ENVOY_BIN, then PATH)")
	pattern := flag.String("case", "", "comma-separated globs or prefixes of PART/NAME/CASE")
	dir := flag.String("dir", "integration/parity", "directory that holds cases/ and known_failing.txt")
	record := flag.Bool("record", false, "write Envoy's answers into the goldens")
	live := flag.Bool("live", false, "compare with a live Envoy instead of the goldens")
	show := flag.Bool("show", false, "print the whole outcome of ours")
	keep := flag.Bool("keep", false, "keep the scratch directory of each group")
	only := flag.String("only", "", "comma-separated sections to compare: conn,backend,log,stats,admin (default all)")
	self := flag.Bool("self", false, "the binary given by -ours is Envoy itself: leave own expectations out (checks the harness)")
	known := flag.Bool("write-known", false, "rewrite known_failing.txt from this run")
	ports := flag.String("ports", "22000-22999", "range of listening ports")
	parallel := flag.Int("parallel", 3, "groups at a time")
	flag.Parse()

	groups, err := parity.Load(filepath.Join(*dir, "cases"))
	if err != nil {
		return err
	}
	suite := &parity.Suite{Groups: groups, Parallel: *parallel, Self: *self, Select: func(name string) bool {
		for _, p := range strings.Split(*pattern, ",") {
			if parity.Match(p, name) {
				return true
			}
		}
		return false
	}}
	if *only != "" {
		suite.Only = strings.Split(*only, ",")
	}
	var ref *parity.Runner
	if *record || *live {
		bin := parity.FindEnvoy(*envoy)
		if bin == "" {
			return fmt.Errorf("no Envoy found: pass -envoy")
		}
		if ref, err = parity.NewRunner(bin, *ports); err != nil {
			return err
		}
		ref.Keep = *keep
	}
	start := time.Now()
	if *record {
		names, err := suite.Record(ref)
		fmt.Printf("recorded %d cases in %.1f s\n", len(names), time.Since(start).Seconds())
		return err
	}
	if *ours == "" {
		return fmt.Errorf("pass -ours PATH (go build -o PATH ./cmd/sidecar)")
	}
	bin, err := filepath.Abs(*ours)
	if err != nil {
		return err
	}
	own, err := parity.NewRunner(bin, *ports)
	if err != nil {
		return err
	}
	own.Keep = *keep
	verdicts, err := suite.Compare(own, ref)
	if err != nil {
		return err
	}
	file := filepath.Join(*dir, "known_failing.txt")
	list, err := parity.ReadKnown(file, groups)
	if err != nil {
		return err
	}
	return report(verdicts, list, *show, *known, file, time.Since(start))
}

func report(verdicts []parity.Verdict, list map[string]string, show, write bool, file string, took time.Duration) error {
	pass, bad := 0, 0
	sections := map[string]int{}
	for _, v := range verdicts {
		for _, word := range []string{"conn", "backend", "log", "stats", "admin", "leaked", "error", "exit"} {
			if strings.Contains("\n"+v.Diff, "\n--- "+word+" ") {
				sections[word]++
			}
		}
		switch {
		case v.Diff == "" && list[v.Name] != "":
			fmt.Printf("PASS %s, although known_failing.txt lists it\n", v.Name)
			pass++
			bad++
		case v.Diff == "":
			pass++
		case list[v.Name] != "":
			fmt.Printf("known %s: %s\n", v.Name, list[v.Name])
		default:
			bad++
			fmt.Printf("FAIL %s\n%s\n", v.Name, v.Diff)
		}
		if show && v.Got != nil {
			fmt.Print(v.Got)
		}
	}
	fmt.Printf("%d cases, %d equal, %d unexpected, %.1f s; cases by differing section: %v\n", len(verdicts), pass, bad, took.Seconds(), sections)
	if write {
		return parity.WriteKnown(file, list, verdicts)
	}
	if bad > 0 {
		return fmt.Errorf("%d cases are not as expected", bad)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var (
	oursFlag  = flag.String("ours", os.Getenv("SIDECAR_BIN"), "sidecar binary; empty builds ./cmd/sidecar")
	envoyFlag = flag.String("envoy", "", "Envoy binary for -live")
	liveFlag  = flag.Bool("live", false, "compare with a live Envoy instead of the goldens")
	caseFlag  = flag.String("case", "", "glob or prefix of PART/NAME/CASE")
	portsFlag = flag.String("ports", "22000-22999", "range of listening ports")
)

// maxUnsteady is how many of the cases may need to run alone: a stalled machine turns around a few events, a fault of ours many.
const maxUnsteady = 5

// oursBinary returns the binary under test, building it when none is given.
func oursBinary(t *testing.T) string {
	if *oursFlag != "" {
		abs, err := filepath.Abs(*oursFlag)
		if err != nil {
			t.Fatal(err)
		}
		return abs
	}
	bin := filepath.Join(t.TempDir(), "sidecar")
	if out, err := exec.Command("go", "build", "-o", bin, "sidecar/cmd/sidecar").CombinedOutput(); err != nil {
		t.Fatalf("go build ./cmd/sidecar: %v\n%s", err, out)
	}
	return bin
}

func TestParity_WhenSameTraffic_ThenSameAnswersAsEnvoy(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: -short: parity starts processes")
	}
	groups, err := Load("cases")
	if err != nil {
		t.Fatal(err)
	}
	known, err := ReadKnown("known_failing.txt", groups)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := NewRunner(oursBinary(t), *portsFlag)
	if err != nil {
		t.Fatal(err)
	}
	var ref *Runner
	if *liveFlag {
		if ref, err = NewRunner(FindEnvoy(*envoyFlag), *portsFlag); err != nil {
			t.Fatal(err)
		}
	}
	suite := &Suite{Groups: groups, Parallel: 3, Again: 2, Select: func(n string) bool { return Match(*caseFlag, n) }}
	verdicts, err := suite.Compare(ours, ref)
	if err != nil {
		t.Fatal(err)
	}
	unsteady := 0
	for _, v := range verdicts {
		t.Run(v.Name, func(t *testing.T) {
			reason := known[v.Name]
			if v.Unsteady != "" {
				unsteady++
				t.Logf("as Envoy 1.40.0 when run alone; with the others:\n%s", v.Unsteady)
			}
			switch {
			case v.Diff == "" && reason != "":
				t.Errorf("passes, but known_failing.txt lists it (%s): remove the line", reason)
			case v.Diff != "" && reason != "":
				t.Skipf("known failing: %s", reason)
			case v.Diff != "":
				t.Errorf("differs from Envoy 1.40.0:\n%s", v.Diff)
			}
		})
	}
	if unsteady > maxUnsteady {
		t.Errorf("%d cases differed when run with the others, at most %d are put down to the machine", unsteady, maxUnsteady)
	}
}

func TestCases_WhenLoaded_ThenEveryCaseHasARecordedAnswer(t *testing.T) {
	groups, err := Load("cases")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		golden, err := readGolden(goldenPath(g))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range g.Cases {
			if golden[c.Name] == nil {
				t.Errorf("%s/%s: no golden", g.Name, c.Name)
			}
		}
		for _, c := range g.Validate {
			if golden[c.Name] == nil {
				t.Errorf("%s/%s: no golden", g.Name, c.Name)
			}
		}
	}
}

// pendingRows are differences that the cases hold sidecar to and docs/differences.md does not list yet.
var pendingRows = []string{}

func TestCases_WhenOursDiffers_ThenTheDifferenceIsDocumented(t *testing.T) {
	groups, err := Load("cases")
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckDiffers("../../docs/differences.md", groups, pendingRows); err != nil {
		t.Error(err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestDefaultTime_WhenPrintedDirectly_ThenAsByTheCalendar(t *testing.T) {
	f, err := compileTime("", false)
	if err != nil {
		t.Fatal(err)
	}
	var c Clock
	check := func(ns int64) {
		t.Helper()
		want := time.Unix(0, ns).UTC().Format("2006-01-02T15:04:05.000Z")
		for range 2 { // the second time of the same second
			if got := string(f.append(nil, ns, &c)); got != want {
				t.Fatalf("%d: %s, want %s", ns, got, want)
			}
		}
		if got := string(f.append(nil, ns, nil)); got != want {
			t.Fatalf("%d: %s, want %s", ns, got, want)
		}
	}
	check(7e6) // in the second that a new Clock seems to be about
	for _, s := range []string{"1970-01-01", "1972-02-29", "1999-12-31", "2000-02-29", "2000-03-01", "2024-02-29", "2100-02-28", "2100-03-01", "2262-01-01"} {
		d, err := time.Parse(time.DateOnly, s)
		if err != nil {
			t.Fatal(err)
		}
		for _, off := range []time.Duration{-time.Nanosecond, 0, time.Millisecond, 24*time.Hour - 1} {
			check(d.Add(off).UnixNano())
		}
	}
	check(math.MaxInt64)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		check(rng.Int64())
	}
}

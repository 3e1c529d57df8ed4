// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// TestSession_WhenTranscriptIsPlayed_ThenActionsMatch plays testdata/*.txt: blocks of directives, a line of dashes, the expected actions.
func TestSession_WhenTranscriptIsPlayed_ThenActionsMatch(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(in))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(in) {
				t.Errorf("transcript differs (run with -update and look at the diff); got:\n%s", got)
			}
		})
	}
}

// play runs every block and returns the file with the actual output in place of the expected one.
func play(t *testing.T, file string) string {
	t.Helper()
	var b strings.Builder
	var s *Session
	for i, block := range strings.Split(strings.TrimSpace(file), "\n\n") {
		if i > 0 {
			b.WriteString("\n")
		}
		commands, _, isBlock := strings.Cut(block, "\n----")
		b.WriteString(commands + "\n")
		if !isBlock {
			continue
		}
		b.WriteString("----\n")
		for _, line := range strings.Split(commands, "\n") {
			if strings.HasPrefix(line, "#") {
				continue
			}
			var acts []Action
			s, acts = run(t, s, strings.Fields(line))
			for _, a := range acts {
				b.WriteString(show(a) + "\n")
			}
		}
	}
	return b.String()
}

var shortURL = map[string]string{
	"CDS": clusterURL, "EDS": endpointsURL, "LDS": listenerURL, "RDS": routeURL, "RTDS": runtimeURL, "SDS": "type.googleapis.com/secret",
}

func short(url string) string {
	for k, v := range shortURL {
		if v == url {
			return k
		}
	}
	return url
}

func long(s string) string {
	if u, ok := shortURL[s]; ok {
		return u
	}
	return s
}

// args splits the words behind the directive into key=value pairs and bare words.
func args(words []string) (kv map[string]string, bare []string) {
	kv = map[string]string{}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			kv[k] = v
		} else {
			bare = append(bare, w)
		}
	}
	return kv, bare
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func run(t *testing.T, s *Session, words []string) (*Session, []Action) {
	t.Helper()
	kv, bare := args(words[1:])
	has := func(w string) bool { return slices.Contains(bare, w) }
	dur := func(v string) time.Duration {
		if v == "" {
			return 0
		}
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	switch words[0] {
	case "new":
		cfg := Config{NodeInEvery: has("node-in-every"), ExplicitWildcard: has("explicit-wildcard"), Seed: 1}
		if has("delta") {
			cfg.Variant = Delta
		}
		for _, u := range list(kv["types"]) {
			cfg.Types = append(cfg.Types, TypeConfig{URL: long(u), FullState: u == "CDS" || u == "LDS"})
		}
		return New(cfg), nil
	case "open":
		return s, s.Step(Opened{}, nil)
	case "close":
		return s, s.Step(Closed{}, nil)
	case "subscribe":
		return s, s.Step(Subscribe{TypeURL: long(bare[0]), Names: without(bare[1:], "*"), Wildcard: has("*")}, nil)
	case "again":
		return s, s.Step(Subscribe{TypeURL: long(bare[0]), Names: bare[1:], Again: true}, nil)
	case "unsubscribe":
		return s, s.Step(Unsubscribe{TypeURL: long(bare[0]), Names: without(bare[1:], "*"), Wildcard: has("*")}, nil)
	case "flush":
		return s, s.Step(Flush{}, nil)
	case "release":
		return s, s.Step(Release{TypeURL: long(bare[0])}, nil)
	case "tick":
		return s, s.Step(Tick{Now: dur(bare[0])}, nil)
	case "response":
		r := Response{TypeURL: long(bare[0]), Version: kv["version"], Nonce: kv["nonce"], Now: dur(kv["now"]), Removed: list(kv["removed"])}
		for _, w := range list(kv["res"]) {
			r.Resources = append(r.Resources, raw(t, r.TypeURL, w, dur))
		}
		return s, s.Step(r, nil)
	case "verdict":
		id, err := strconv.ParseUint(bare[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		v := Verdict{Batch: BatchID(id), Hold: has("hold")}
		for _, w := range list(kv["reject"]) {
			name, text, _ := strings.Cut(w, ":")
			v.Rejected = append(v.Rejected, Rejection{Name: name, Text: strings.ReplaceAll(text, "_", " ")})
		}
		if n := kv["reject-many"]; n != "" {
			count, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			for i := range count {
				v.Rejected = append(v.Rejected, Rejection{Name: fmt.Sprintf("r%04d", i), Text: fmt.Sprintf("r%04d: %s", i, strings.Repeat("x", 93))})
			}
		}
		return s, s.Step(v, nil)
	}
	t.Fatalf("unknown directive %q", words[0])
	return nil, nil
}

// raw parses name[:version][:ttl=5s][:hb].
func raw(t *testing.T, url, w string, dur func(string) time.Duration) Raw {
	parts := strings.Split(w, ":")
	r := Raw{Name: parts[0], TypeURL: url, HasBody: true}
	for _, p := range parts[1:] {
		switch {
		case p == "hb":
			r.HasBody = false
		case strings.HasPrefix(p, "ttl="):
			r.TTL = dur(p[4:])
		default:
			r.Version = p
		}
	}
	return r
}

func without(words []string, drop string) []string {
	return slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == drop })
}

func show(a Action) string {
	switch a := a.(type) {
	case Send:
		return showSend(a)
	case Deliver:
		var b strings.Builder
		fmt.Fprintf(&b, "deliver %d %s version=%q", a.Batch, short(a.TypeURL), a.Version)
		if a.Full {
			b.WriteString(" full")
		}
		if len(a.Changed) > 0 {
			b.WriteString(" changed=[")
			for i, r := range a.Changed {
				if i > 0 {
					b.WriteString(" ")
				}
				b.WriteString(r.Name)
			}
			b.WriteString("]")
		}
		for _, p := range []struct {
			k string
			v []string
		}{{"removed", a.Removed}, {"refreshed", a.Refreshed}} {
			if len(p.v) > 0 {
				fmt.Fprintf(&b, " %s=%v", p.k, p.v)
			}
		}
		for _, r := range a.Rejected {
			fmt.Fprintf(&b, " rejected=%q", r.Text)
		}
		return b.String()
	case Read:
		return "read"
	case Reconnect:
		return fmt.Sprintf("reconnect after %v", a.After.Round(time.Millisecond))
	case Expired:
		return fmt.Sprintf("expired %s %s", short(a.TypeURL), a.Name)
	}
	return fmt.Sprintf("%#v", a)
}

func showSend(a Send) string {
	var b strings.Builder
	kind := "request"
	switch {
	case a.Nack:
		kind = "nack"
	case a.Nonce != "":
		kind = "ack"
	}
	fmt.Fprintf(&b, "send %s %s", kind, short(a.TypeURL))
	if a.Node {
		b.WriteString(" node")
	}
	if a.Version != "" {
		fmt.Fprintf(&b, " version=%q", a.Version)
	}
	if a.Nonce != "" {
		fmt.Fprintf(&b, " nonce=%q", a.Nonce)
	}
	if a.Add == nil && a.Remove == nil && a.Names != nil {
		fmt.Fprintf(&b, " names=%v", a.Names)
	}
	if len(a.Add) > 0 {
		fmt.Fprintf(&b, " add=%v", a.Add)
	}
	if len(a.Remove) > 0 {
		fmt.Fprintf(&b, " remove=%v", a.Remove)
	}
	if len(a.Initial) > 0 {
		b.WriteString(" initial=[")
		for i, k := range slices.Sorted(maps.Keys(a.Initial)) {
			if i > 0 {
				b.WriteString(" ")
			}
			fmt.Fprintf(&b, "%s:%s", k, a.Initial[k])
		}
		b.WriteString("]")
	}
	if a.Nack {
		text := a.Error
		if len(text) > 400 {
			text = fmt.Sprintf("%s...(%d bytes)...%s", text[:40], len(text), text[len(text)-60:])
		}
		fmt.Fprintf(&b, " error=%q", text)
	}
	return b.String()
}

// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bufio"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sidecar/dataplane/httpmsg"
)

var update = flag.Bool("update", false, "rewrite the expected output of the transcripts")

// TestTranscripts runs testdata/*.txt. A transcript is a sequence of cases: comment lines with '#', a line "request" or "response METHOD..." followed by
// options (lax, http10, host=, chunkedlength, reject, drop, raw, custom, notrailers, eof), the input as Go string literals with one line each, and the
// expected output behind "| ". Each case is also run cut at every byte and byte by byte.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) { transcript(t, name) })
	}
}

func transcript(t *testing.T, name string) {
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var out, input, want strings.Builder
	var directive string
	flush := func() {
		if directive == "" {
			return
		}
		got := play(t, directive, input.String())
		for _, l := range strings.Split(strings.TrimSuffix(got, "\n"), "\n") {
			out.WriteString("| " + l + "\n")
		}
		if !*update && got != want.String() {
			t.Errorf("%s\n%q\ngot:\n%swant:\n%s", directive, input.String(), got, want.String())
		}
		directive = ""
		input.Reset()
		want.Reset()
	}
	for sc := bufio.NewScanner(strings.NewReader(string(text))); sc.Scan(); {
		line := sc.Text()
		switch {
		case strings.HasPrefix(line, "| "):
			want.WriteString(line[2:] + "\n")
			continue
		case strings.HasPrefix(line, "\""):
			s, err := strconv.Unquote(line)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			input.WriteString(s)
		default:
			flush()
			if line != "" && line[0] != '#' {
				directive = line
			}
		}
		out.WriteString(line + "\n")
	}
	flush()
	if *update {
		if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func play(t *testing.T, directive, input string) string {
	words := strings.Fields(directive)
	o, eof := strict(), false
	var asks []httpmsg.Method
	for _, w := range words[1:] {
		value := w[strings.Index(w, "=")+1:]
		switch strings.TrimSuffix(w, value) + map[bool]string{true: w}[value == w] {
		case "lax":
			o.Lax = true
		case "http10":
			o.AcceptHTTP10 = true
		case "host=":
			o.DefaultHost = value
		case "chunkedlength":
			o.AllowChunkedLength = true
		case "reject":
			o.Underscores = UnderscoreReject
		case "drop":
			o.Underscores = UnderscoreDrop
		case "raw":
			o.KeepRawNames = true
		case "custom":
			o.AllowCustomMethods = true
		case "noabsolute":
			o.AllowAbsoluteURL = false
		case "notrailers":
			o.EnableTrailers = false
		case "bytes=":
			o.MaxHeadBytes, _ = strconv.Atoi(value)
		case "headers=":
			o.MaxHeaders, _ = strconv.Atoi(value)
		case "eof":
			eof = true
		default:
			m := httpmsg.ParseMethod([]byte(w))
			if m == httpmsg.MethodOther {
				t.Fatalf("%s: what is %s?", directive, w)
			}
			asks = append(asks, m)
		}
	}
	if words[0] == "response" {
		if asks == nil {
			asks = []httpmsg.Method{httpmsg.MethodGet}
		}
		return invariant(t, func() *Decoder { return response(o) }, input, eof, asks...)
	}
	return invariant(t, func() *Decoder { return request(o) }, input, eof)
}

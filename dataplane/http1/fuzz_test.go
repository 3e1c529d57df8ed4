// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
)

var (
	requestLineRE = regexp.MustCompile(`^[!#$%&'*+\-.^_|~0-9A-Za-z` + "`" + `]+ [!-~]+ HTTP/1\.1$`)
	fieldRE       = regexp.MustCompile(`^[!#$%&'*+\-.^_|~0-9a-z` + "`" + `]+: ([^\x00-\x20\x7f]([^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?$`)
)

// strictGrammar checks a forwarded request against the grammar of RFC 9112 that no parser reads in another way: one blank each, CRLF only, one Host, one framing.
func strictGrammar(t *testing.T, what, msg string) {
	t.Helper()
	head, body, ok := strings.Cut(msg, "\r\n\r\n")
	if !ok {
		t.Fatalf("%s: no end of head in %q", what, msg)
	}
	lines := strings.Split(head, "\r\n")
	if !requestLineRE.MatchString(lines[0]) {
		t.Errorf("%s: request line %q", what, lines[0])
	}
	count := map[string]int{}
	for i, l := range lines[1:] {
		if !fieldRE.MatchString(l) {
			t.Errorf("%s: field %q", what, l)
		}
		name, value, _ := strings.Cut(l, ": ")
		count[strings.ReplaceAll(name, "_", "-")]++
		if i == 0 && name != "host" {
			t.Errorf("%s: host is not first: %q", what, l)
		}
		if name == "transfer-encoding" && value != "chunked" {
			t.Errorf("%s: %q", what, l)
		}
	}
	cl, te := count["content-length"], count["transfer-encoding"]
	if count["host"] != 1 || cl+te > 1 {
		t.Errorf("%s: %d host, %d content-length, %d transfer-encoding", what, count["host"], cl, te)
	}
	if cl+te == 0 && body != "" {
		t.Errorf("%s: body %q without framing", what, body)
	}
}

var seeds = []string{
	fiveHeaders,
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: b\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nX: y\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
	"\r\nOPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close, te\r\nTE: trailers\r\n\r\n",
	"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
	"GET http://u@h?x HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	"GET / HTTP/1.0\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}

// FuzzRequest: whatever comes in, what is forwarded is in strict grammar, reads the same to net/http, is not accepted where net/http refuses the framing,
// and does not depend on how the input was cut.
func FuzzRequest(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), uint8(7))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		in = in[:min(len(in), 4096)]
		for _, o := range []*Options{strict(), lax(), {AcceptHTTP10: true, DefaultHost: "d", AllowChunkedLength: true, EnableTrailers: true, AllowAbsoluteURL: true}} {
			whole := run(request(o), in, nil, true)
			at := int(cut) % (len(in) + 1)
			if got := run(request(o), in, []int{at}, true); got != whole {
				t.Fatalf("cut at %d of %q (%+v):\n%s\nwhole:\n%s", at, in, *o, got, whole)
			}
		}
		out := serve(in, strict())
		for _, msg := range out.forwarded {
			strictGrammar(t, fmt.Sprintf("%q", in), msg)
		}
		differ(t, in, out)
	})
}

// differ compares the first request with what net/http makes of the same bytes.
func differ(t *testing.T, in []byte, out outcome) {
	if len(out.forwarded) == 0 || out.status != 200 {
		return
	}
	trimmed := in[emptyLines(in, false, false):] // net/http takes no empty lines in front
	theirs, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(trimmed)))
	if err != nil {
		if why := err.Error(); strings.Contains(why, "invalid URL escape") || strings.Contains(why, "parse \"") || strings.Contains(why, "invalid URI") {
			return // the target: no framing
		}
		t.Fatalf("%q: accepted, but net/http says %v", in, err)
	}
	body, err := io.ReadAll(theirs.Body)
	if err != nil {
		t.Fatalf("%q: accepted, but net/http says of the body %v", in, err)
	}
	ours, err := http.ReadRequest(bufio.NewReader(strings.NewReader(out.forwarded[0])))
	if err != nil {
		t.Fatalf("%q: forwarded as %q, of which net/http says %v", in, out.forwarded[0], err)
	}
	again, err := io.ReadAll(ours.Body)
	if err != nil || string(again) != string(body) || ours.Host != theirs.Host && !strings.Contains(theirs.RequestURI, "://") || ours.Method != theirs.Method {
		t.Fatalf("%q: net/http reads %s %q %q, of what we forward %s %q %q (%v)", in, theirs.Method, theirs.Host, body, ours.Method, ours.Host, again, err)
	}
}

// FuzzResponse: invariance, and nothing that net/http frames in another way.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{okResponse, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.0 200\r\n\r\nbody", "HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n",
		"HTTP/1.1 103 X\r\n\r\nHTTP/1.1 204 Y\r\nContent-Length: 0\r\n\r\n"} {
		f.Add([]byte(s), uint8(20))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		in = in[:min(len(in), 4096)]
		for _, o := range []*Options{strict(), lax()} {
			for _, m := range []httpmsg.Method{httpmsg.MethodGet, httpmsg.MethodHead, httpmsg.MethodConnect} {
				whole := run(response(o), in, nil, true, m, m)
				at := int(cut) % (len(in) + 1)
				if got := run(response(o), in, []int{at}, true, m, m); got != whole {
					t.Fatalf("cut at %d of %q:\n%s\nwhole:\n%s", at, in, got, whole)
				}
			}
		}
		d, h := response(strict()), newHead()
		d.BeginResponse(httpmsg.MethodGet, false)
		n, st, k := d.Head(in, h)
		if k != fault.None || st != Done || h.Status < 200 {
			return
		}
		var ours []byte
		for rest, end := in[n:], !d.HasBody(); !end; {
			var data []byte
			if n, data, end, k = d.Body(rest, nil); k != fault.None {
				return
			}
			rest = rest[n:]
			if ours = append(ours, data...); len(data) == 0 && !end {
				if end, _ = d.EOF(); !end {
					return
				}
			}
		}
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: "GET"})
		if err != nil {
			t.Fatalf("%q: accepted, but net/http says %v", in, err)
		}
		body, err := io.ReadAll(theirs.Body)
		if err != nil || string(body) != string(ours) || theirs.StatusCode != int(h.Status) {
			t.Fatalf("%q: %d %q, net/http reads %d %q (%v)", in, h.Status, ours, theirs.StatusCode, body, err)
		}
	})
}

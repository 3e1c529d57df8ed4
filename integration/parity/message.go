// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// message is one HTTP/1 message cut out of a byte stream. The parser is lenient on purpose: it shows what was sent, it does not judge.
type message struct {
	start    string
	fields   []string
	body     []byte
	trailers []string
	complete bool
	interim  bool
	tunnel   bool
	noBody   bool
}

// field returns the value of the first field with that name (lower case), and whether there is one.
func (m *message) field(name string) (string, bool) {
	for _, f := range m.fields {
		n, v, ok := strings.Cut(f, ":")
		if ok && strings.EqualFold(strings.TrimSpace(n), name) {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// cutMessage takes the first message off buf. For a response, method is the request's. It returns nil when the head is not complete; n is
// the number of bytes used. eof says that no more bytes will come, which ends a body without framing.
func cutMessage(buf []byte, response bool, method string, eof bool) (m *message, n int) {
	end := bytes.Index(buf, []byte("\r\n\r\n"))
	if end < 0 {
		return nil, 0
	}
	lines := strings.Split(string(buf[:end]), "\r\n")
	m = &message{start: lines[0], fields: lines[1:]}
	n = end + 4
	if response {
		status := 0
		if p := strings.SplitN(m.start, " ", 3); len(p) > 1 {
			status, _ = strconv.Atoi(p[1])
		}
		switch {
		case status == 101 || method == "CONNECT" && status/100 == 2:
			m.tunnel, m.complete = true, true
			return m, n
		case status/100 == 1:
			m.interim, m.complete = true, true
			return m, n
		case method == "HEAD" || status == 204 || status == 304:
			m.complete, m.noBody = true, true
			return m, n
		}
	} else if strings.HasPrefix(m.start, "CONNECT ") {
		m.tunnel, m.complete = true, true
		return m, n
	}
	return m, n + m.cutBody(buf[n:], response, eof)
}

func (m *message) cutBody(rest []byte, response, eof bool) (n int) {
	if te, ok := m.field("transfer-encoding"); ok && strings.EqualFold(te, "chunked") {
		return m.cutChunks(rest)
	}
	if cl, ok := m.field("content-length"); ok {
		want, _ := strconv.Atoi(cl)
		m.complete = len(rest) >= want
		m.body = rest[:min(want, len(rest))]
		return len(m.body)
	}
	if !response {
		m.complete = true
		return 0
	}
	m.body, m.complete = rest, eof
	return len(rest)
}

func (m *message) cutChunks(rest []byte) (n int) {
	for {
		eol := bytes.Index(rest[n:], []byte("\r\n"))
		if eol < 0 {
			return len(rest)
		}
		size, err := strconv.ParseUint(strings.TrimSpace(strings.SplitN(string(rest[n:n+eol]), ";", 2)[0]), 16, 31)
		if err != nil {
			m.body = append(m.body, rest[n:]...)
			return len(rest)
		}
		n += eol + 2
		if size == 0 {
			break
		}
		if len(rest) < n+int(size)+2 {
			m.body = append(m.body, rest[n:]...)
			return len(rest)
		}
		m.body = append(m.body, rest[n:n+int(size)]...)
		n += int(size) + 2
	}
	for {
		eol := bytes.Index(rest[n:], []byte("\r\n"))
		if eol < 0 {
			return len(rest)
		}
		line := string(rest[n : n+eol])
		n += eol + 2
		if line == "" {
			m.complete = true
			return n
		}
		m.trailers = append(m.trailers, line)
	}
}

// render writes the message as text: fields sorted by name (order among different names carries no meaning, order among equal names is
// kept), the body quoted.
func (m *message) render(w *strings.Builder) {
	fmt.Fprintf(w, "%s\n", printable(m.start))
	for _, f := range sortedFields(m.fields) {
		fmt.Fprintf(w, "%s\n", printable(f))
	}
	if len(m.body) > 0 || !m.complete {
		fmt.Fprintf(w, "body %s\n", quoteBody(m.body))
	}
	for _, f := range sortedFields(m.trailers) {
		fmt.Fprintf(w, "trailer %s\n", printable(f))
	}
	if !m.complete {
		w.WriteString("(cut short)\n")
	}
}

func sortedFields(in []string) []string {
	out := append([]string(nil), in...)
	name := func(s string) string { n, _, _ := strings.Cut(s, ":"); return strings.ToLower(n) }
	sort.SliceStable(out, func(i, j int) bool { return name(out[i]) < name(out[j]) })
	return out
}

func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f }) >= 0 {
		return strconv.Quote(s)
	}
	if len(s) > 600 {
		return fmt.Sprintf("%s… %d bytes sha256 %x", s[:60], len(s), sha256.Sum256([]byte(s)))
	}
	return s
}

// quoteBody shows short bodies literally and long ones by length and hash.
func quoteBody(b []byte) string {
	if len(b) > 1500 {
		return fmt.Sprintf("%d bytes sha256 %x", len(b), sha256.Sum256(b))
	}
	return strconv.Quote(string(b))
}

// renderResponses shows a client's whole received stream, given the methods of the requests sent on it in order.
func renderResponses(stream []byte, methods []string, eof bool) (text string, units []string) {
	var w strings.Builder
	for len(stream) > 0 {
		method := "GET"
		if len(methods) > 0 {
			method = methods[0]
		}
		m, n := cutMessage(stream, true, method, eof)
		if m == nil || !strings.HasPrefix(m.start, "HTTP/") {
			fmt.Fprintf(&w, "raw %s\n", quoteBody(stream))
			units = append(units, "raw "+quoteBody(stream))
			break
		}
		var one strings.Builder
		m.render(&one)
		units = append(units, one.String())
		w.WriteString(one.String())
		stream = stream[n:]
		if m.tunnel {
			if len(stream) > 0 {
				fmt.Fprintf(&w, "raw %s\n", quoteBody(stream))
			}
			break
		}
		if !m.interim && len(methods) > 0 {
			methods = methods[1:]
		}
	}
	return w.String(), units
}

// countResponses tells how many final responses the stream holds completely.
func countResponses(stream []byte, methods []string, eof bool) int {
	done := 0
	for len(stream) > 0 {
		method := "GET"
		if len(methods) > 0 {
			method = methods[0]
		}
		m, n := cutMessage(stream, true, method, eof)
		if m == nil || !m.complete {
			return done
		}
		stream = stream[n:]
		if m.interim {
			continue
		}
		done++
		if m.tunnel {
			return done
		}
		if len(methods) > 0 {
			methods = methods[1:]
		}
	}
	return done
}

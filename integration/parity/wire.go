// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"fmt"
	"strconv"
	"strings"
)

// Unescape turns \r \n \t \0 \\ and \xHH into the bytes they name. Any other backslash is an error, so a typo never reaches the wire.
func Unescape(s string) ([]byte, error) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out = append(out, s[i])
			continue
		}
		i++
		if i == len(s) {
			return nil, fmt.Errorf("%q: a backslash at the end", s)
		}
		switch s[i] {
		case 'r':
			out = append(out, '\r')
		case 'n':
			out = append(out, '\n')
		case 't':
			out = append(out, '\t')
		case '0':
			out = append(out, 0)
		case '\\':
			out = append(out, '\\')
		case 'x':
			if i+2 >= len(s) {
				return nil, fmt.Errorf("%q: a short \\x escape", s)
			}
			v, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return nil, fmt.Errorf("%q: \\x%s is not a byte", s, s[i+1:i+3])
			}
			out = append(out, byte(v))
			i += 2
		case '{': // \{N:TEXT} repeats TEXT N times, for oversize input.
			end := strings.IndexByte(s[i:], '}')
			if end < 0 {
				return nil, fmt.Errorf("%q: an open \\{", s)
			}
			count, text, ok := strings.Cut(s[i+1:i+end], ":")
			n, err := strconv.Atoi(count)
			if !ok || err != nil || n < 0 || n*len(text) > 64<<20 {
				return nil, fmt.Errorf("%q: bad repeat %q", s, s[i+1:i+end])
			}
			inner, err := Unescape(text)
			if err != nil {
				return nil, err
			}
			for ; n > 0; n-- {
				out = append(out, inner...)
			}
			i += end
		default:
			return nil, fmt.Errorf("%q: unknown escape \\%c", s, s[i])
		}
	}
	return out, nil
}

// buildRequest renders a Req step as bytes.
func buildRequest(s *Step) ([]byte, error) {
	f := strings.Fields(s.Req)
	if len(f) < 2 || len(f) > 3 {
		return nil, fmt.Errorf("req %q: want METHOD TARGET [HOST]", s.Req)
	}
	host := "a.test"
	if len(f) == 3 {
		host = f[2]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\\r\\n", f[0], f[1])
	if host != "-" {
		fmt.Fprintf(&b, "Host: %s\\r\\n", host)
	}
	framed := false
	for _, h := range s.Headers {
		b.WriteString(h + "\\r\\n")
		l := strings.ToLower(h)
		framed = framed || strings.HasPrefix(l, "content-length:") || strings.HasPrefix(l, "transfer-encoding:")
	}
	body, err := Unescape(s.Body)
	if err != nil {
		return nil, err
	}
	if s.Body != "" && !framed {
		fmt.Fprintf(&b, "Content-Length: %d\\r\\n", len(body))
	}
	b.WriteString("\\r\\n")
	head, err := Unescape(b.String())
	return append(head, body...), err
}

// buildReply renders a scripted reply as bytes.
func buildReply(r *Reply) ([]byte, error) {
	if r.Send != "" {
		return Unescape(r.Send)
	}
	if r.Status == 0 {
		return nil, nil
	}
	body, err := Unescape(r.Body)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d X\\r\\n", r.Status)
	framed := r.Status == 204 || r.Status == 304 || r.Status < 200
	for _, h := range r.Headers {
		b.WriteString(h + "\\r\\n")
		l := strings.ToLower(h)
		framed = framed || strings.HasPrefix(l, "content-length:") || strings.HasPrefix(l, "transfer-encoding:")
	}
	if !framed {
		fmt.Fprintf(&b, "content-length: %d\\r\\n", len(body))
	}
	b.WriteString("\\r\\n")
	head, err := Unescape(b.String())
	return append(head, body...), err
}

// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"
)

// admin makes one admin request over a connection of its own and renders what Show selects.
func (run *groupRun) admin(i int, s *Step) (name, text string) {
	name = fmt.Sprintf("admin %d %s", i+1, s.Admin)
	method, target, _ := strings.Cut(s.Admin, " ")
	deadline := time.Now().Add(max(time.Duration(s.Timeout), defaultTimeout))
	for {
		m, err := adminRaw(run.v.ports["admin"], method, target, s.Body)
		if err != nil {
			return name, "error " + err.Error() + "\n"
		}
		if s.Await == "" || strings.Contains(string(m.body), s.Await) || time.Now().After(deadline) {
			return run.norm.text(name), run.norm.text(showAdmin(m, s))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func adminRaw(port int, method, target, body string) (*message, error) {
	c, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(port), time.Second)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: admin\r\n", method, target)
	if body != "" {
		fmt.Fprintf(c, "Content-Length: %d\r\n", len(body))
	}
	fmt.Fprintf(c, "\r\n%s", body)
	var got []byte
	r := bufio.NewReader(c)
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		got = append(got, buf[:n]...)
		if m, _ := cutMessage(got, true, method, err != nil); m != nil && m.complete {
			return m, nil
		}
		if err != nil {
			return nil, fmt.Errorf("admin answer cut after %d bytes: %w", len(got), err)
		}
	}
}

// showAdmin renders an admin answer. Framing (chunked or content-length) and the case of field names are the server's choice and left out:
// the admin port is read by tools, not forwarded.
func showAdmin(m *message, s *Step) string {
	kept := m.fields[:0:0]
	for _, f := range m.fields {
		n := strings.ToLower(f)
		if !strings.HasPrefix(n, "transfer-encoding:") && !strings.HasPrefix(n, "content-length:") {
			name, value, _ := strings.Cut(f, ":")
			kept = append(kept, strings.ToLower(name)+":"+value)
		}
	}
	head := &message{start: m.start, fields: kept, complete: true}
	var w strings.Builder
	if s.Show == "status" {
		return m.start + "\n"
	}
	head.render(&w)
	if s.Show == "head" {
		return w.String()
	}
	lines, err := shownLines(m.body, s)
	if err != nil {
		return w.String() + err.Error() + "\n"
	}
	if s.Sort {
		sort.Strings(lines)
	}
	for _, l := range lines {
		w.WriteString(l + "\n")
	}
	return w.String()
}

// shownLines returns the part of an admin body that a step selects.
func shownLines(body []byte, s *Step) (lines []string, err error) {
	if len(s.Pick) > 0 {
		var doc any
		if err := json.Unmarshal(body, &doc); err != nil {
			return nil, fmt.Errorf("body is not JSON: %w", err)
		}
		for _, p := range s.Pick {
			for _, v := range pickJSON(doc, strings.Split(p, ".")) {
				lines = append(lines, p+" = "+v)
			}
		}
		return lines, nil
	}
	re := regexp.MustCompile("")
	if s.Grep != "" {
		if re, err = regexp.Compile(s.Grep); err != nil {
			return nil, fmt.Errorf("bad grep: %w", err)
		}
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(body), "\n"), "\n") {
		if re.MatchString(line) {
			lines = append(lines, "| "+line)
		}
	}
	return lines, nil
}

// pickJSON returns the values at a dotted path as JSON; * is every element or member, # the member names.
func pickJSON(doc any, path []string) []string {
	if len(path) == 0 {
		b, _ := json.Marshal(doc)
		return []string{string(b)}
	}
	var out []string
	switch d := doc.(type) {
	case []any:
		for i, e := range d {
			if path[0] == "*" || path[0] == strconv.Itoa(i) {
				out = append(out, pickJSON(e, path[1:])...)
			}
		}
	case map[string]any:
		if path[0] == "#" {
			return []string{strings.Join(sortedKeys(d), " ")}
		}
		for _, k := range sortedKeys(d) {
			if path[0] == "*" || path[0] == k {
				out = append(out, pickJSON(d[k], path[1:])...)
			}
		}
	}
	return out
}

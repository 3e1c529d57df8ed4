// SPDX-License-Identifier: Apache-2.0

package log

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// event is one message on its way into a line.
type event struct {
	time  time.Time
	level Level
	name  string
	msg   string
	file  string
	line  int
	fn    string
}

// pattern is a compiled spdlog pattern. Immutable.
type pattern struct {
	parts  []part
	caller bool // needs the call site
}

type part struct {
	flag  byte // 0: literal
	lit   string
	width int
	left  bool
	mid   bool
}

// flags are the spdlog flags that are known; '_' and 'j' are Envoy's (message without line breaks, message escaped for JSON). Anything else
// is printed as it stands, as spdlog does.
const flags = "vtPlLnaAbBcCYDxmdHIMSefFpRrTXzEgs#!@%^$ioOu_j"

func compilePattern(s string) *pattern {
	p := &pattern{}
	for s != "" {
		i := strings.IndexByte(s, '%')
		if i < 0 || i == len(s)-1 {
			p.parts = append(p.parts, part{lit: s})
			break
		}
		if i > 0 {
			p.parts = append(p.parts, part{lit: s[:i]})
		}
		x, n := parseFlag(s[i+1:])
		if x.flag == 0 {
			x.lit = s[i : i+1+n]
		}
		p.caller = p.caller || strings.IndexByte("gs#!@", x.flag) >= 0 && x.flag != 0
		p.parts = append(p.parts, x)
		s = s[i+1+n:]
	}
	return p
}

// parseFlag reads [-=]WIDTH and a flag behind a '%'.
func parseFlag(s string) (part, int) {
	x := part{}
	i := 0
	switch s[0] {
	case '-':
		x.left = true
		i++
	case '=':
		x.mid = true
		i++
	}
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		x.width = min(x.width*10+int(s[i]-'0'), 64)
		i++
	}
	if i == len(s) || strings.IndexByte(flags, s[i]) < 0 {
		return part{}, 1
	}
	x.flag = s[i]
	return x, i + 1
}

// compileJSON makes a pattern of a JSON format: values are patterns; %v and %_ are refused because only %j is escaped.
func compileJSON(tree map[string]any) (*pattern, error) {
	for k, v := range tree {
		s, ok := v.(string)
		if !ok {
			continue
		}
		for _, bad := range []string{"%v", "%_"} {
			if strings.Contains(s, bad) {
				return nil, fmt.Errorf("json_format: %s: usage of %s is unavailable for JSON log formats", k, bad)
			}
		}
	}
	b, err := json.Marshal(tree)
	if err != nil {
		return nil, errors.New("json_format: not a JSON object")
	}
	return compilePattern(string(b)), nil
}

// append prints e; skip is the number of frames between the caller of the log and this function.
func (p *pattern) append(b []byte, e *event, skip int) []byte {
	if p.caller {
		if pc, file, line, ok := runtime.Caller(skip); ok {
			e.file, e.line = file, line
			if f := runtime.FuncForPC(pc); f != nil {
				e.fn = f.Name()
			}
		}
	}
	for i := range p.parts {
		x := &p.parts[i]
		if x.flag == 0 {
			b = append(b, x.lit...)
			continue
		}
		from := len(b)
		b = x.append(b, e)
		if n := x.width - (len(b) - from); n > 0 {
			b = x.pad(b, from, n)
		}
	}
	return b
}

func (x *part) pad(b []byte, from, n int) []byte {
	left := n
	switch {
	case x.left:
		left = 0
	case x.mid:
		left = n / 2
	}
	out := string(b[from:])
	return append(append(append(b[:from], strings.Repeat(" ", left)...), out...), strings.Repeat(" ", n-left)...)
}

// shortPath is a source path from the module's root: the build machine's directories are nobody's business.
func shortPath(file string) string {
	for _, root := range []string{"/internal/", "/xds/", "/dataplane/", "/cmd/", "/ebpf/"} {
		if i := strings.LastIndex(file, root); i >= 0 {
			return file[i+1:]
		}
	}
	return filepath.Base(file)
}

// layouts are the flags that are plain time formats.
var layouts = map[byte]string{'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'c': "Mon Jan _2 15:04:05 2006", 'C': "06", 'Y': "2006",
	'D': "01/02/06", 'x': "01/02/06", 'm': "01", 'd': "02", 'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'r': "03:04:05 PM",
	'R': "15:04", 'T': "15:04:05", 'X': "15:04:05", 'z': "-07:00"}

func (x *part) append(b []byte, e *event) []byte {
	if layout, ok := layouts[x.flag]; ok {
		return e.time.AppendFormat(b, layout)
	}
	switch x.flag {
	case 'v':
		return append(b, e.msg...)
	case '_':
		return append(b, strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(e.msg)...)
	case 'j':
		q, err := json.Marshal(e.msg)
		if err != nil {
			return b
		}
		return append(b, q[1:len(q)-1]...)
	case 't':
		return strconv.AppendInt(b, int64(syscall.Gettid()), 10)
	case 'P':
		return strconv.AppendInt(b, int64(os.Getpid()), 10)
	case 'l':
		return append(b, e.level.String()...)
	case 'L':
		return append(b, "TDIWECO"[e.level])
	case 'n':
		return append(b, e.name...)
	case 'e', 'f', 'F':
		digits := map[byte]int{'e': 3, 'f': 6, 'F': 9}[x.flag]
		s := fmt.Sprintf("%09d", e.time.Nanosecond())
		return append(b, s[:digits]...)
	case 'E':
		return strconv.AppendInt(b, e.time.Unix(), 10)
	case 'g':
		return append(b, shortPath(e.file)...)
	case 's':
		return append(b, filepath.Base(e.file)...)
	case '#':
		return strconv.AppendInt(b, int64(e.line), 10)
	case '@':
		return strconv.AppendInt(append(append(b, shortPath(e.file)...), ':'), int64(e.line), 10)
	case '!':
		return append(b, e.fn...)
	case '%':
		return append(b, '%')
	}
	return b // colour marks and elapsed times print nothing
}

// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// command is one %NAME(params):length% of a format text.
type command struct {
	name   string
	params string
	has    bool // parentheses are present; "()" counts as none, as in Envoy
	max    int  // -1 without a length
}

// maxFormatLen bounds a format text: formats come from the control plane.
const maxFormatLen = 1 << 20

// tokenize cuts text into literals and commands and calls the matching function for each in order.
func tokenize(text string, literal func(string), cmd func(command) error) error {
	if len(text) > maxFormatLen {
		return fmt.Errorf("format is longer than %d bytes", maxFormatLen)
	}
	start := 0
	for i := 0; i < len(text); {
		if text[i] != '%' {
			i++
			continue
		}
		if start < i {
			literal(text[start:i])
		}
		if strings.HasPrefix(text[i+1:], "%") {
			literal("%")
			i += 2
			start = i
			continue
		}
		c, n := parseCommand(text[i:])
		if n == 0 {
			return fmt.Errorf("incorrect configuration: %s. couldn't find valid command at position %d", text, i)
		}
		if err := cmd(c); err != nil {
			return err
		}
		i += n
		start = i
	}
	if start < len(text) {
		literal(text[start:])
	}
	return nil
}

// parseCommand reads one command from the '%' that s starts with and returns its length, 0 when there is none. Parameters end at the first
// ')' that the end of a command follows, so they may hold '%' and ')' themselves (time formats, JSON).
func parseCommand(s string) (command, int) {
	i := 1
	for i < len(s) && (s[i] >= 'A' && s[i] <= 'Z' || s[i] >= '0' && s[i] <= '9' || s[i] == '_') {
		i++
	}
	c := command{name: s[1:i], max: -1}
	if i == 1 || i == len(s) {
		return c, 0
	}
	if s[i] != '(' {
		if max, n := parseTail(s[i:]); n > 0 {
			c.max = max
			return c, i + n
		}
		return c, 0
	}
	for j := i + 1; j < len(s); j++ {
		if s[j] != ')' {
			continue
		}
		if max, n := parseTail(s[j+1:]); n > 0 {
			c.params, c.max = s[i+1:j], max
			c.has = c.params != ""
			return c, j + 1 + n
		}
	}
	return c, 0
}

// parseTail reads "%" or ":N%"; n is 0 for anything else.
func parseTail(s string) (limit, n int) {
	if strings.HasPrefix(s, "%") {
		return -1, 1
	}
	if !strings.HasPrefix(s, ":") {
		return 0, 0
	}
	end := strings.IndexByte(s, '%')
	if end < 2 || end > 20 {
		return 0, 0
	}
	for _, d := range []byte(s[1:end]) {
		if d < '0' || d > '9' {
			return 0, 0
		}
	}
	v, err := strconv.ParseInt(s[1:end], 10, 64)
	if err != nil {
		return 0, 0
	}
	return int(v), end + 1
}

// The shapes that a command may have.
const (
	bare = iota
	paramsOptional
	paramsRequired
	paramsRaw // any; the command checks by itself
)

var errHeaderChars = errors.New("invalid header configuration: format string contains invalid characters")

// checkShape applies Envoy's syntax rules of a command.
func checkShape(c command, d *opDef) error {
	if d.shape == bare && (c.has || c.max >= 0) {
		return fmt.Errorf("%s does not take any parameters or length", c.name)
	}
	if d.shape == paramsRequired && !c.has {
		return fmt.Errorf("%s requires parameters", c.name)
	}
	if !d.length && c.max >= 0 {
		return fmt.Errorf("%s does not allow length to be specified", c.name)
	}
	return nil
}

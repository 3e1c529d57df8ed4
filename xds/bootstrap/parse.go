// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v2"
)

// A parsed document is a tree of nil, bool, json.Number, string, []any and map[string]any, as encoding/json makes it.

// parseJSON parses a JSON document. Commas before a closing bracket are tolerated: Istio's template can render one, and Envoy takes it.
func parseJSON(in []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(blankTrailingCommas(in)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		if err == io.EOF {
			return nil, fmt.Errorf("the document is empty")
		}
		offset := dec.InputOffset()
		if se, ok := err.(*json.SyntaxError); ok {
			offset = se.Offset
		}
		return nil, fmt.Errorf("line %d: %s", 1+bytes.Count(in[:min(int(offset), len(in))], []byte("\n")), jsonReason(err))
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("text after the end of the document")
	}
	return v, nil
}

func jsonReason(err error) string { return strings.TrimPrefix(err.Error(), "json: ") }

// blankTrailingCommas replaces commas that precede a closing bracket (outside strings) by a space, keeping all offsets.
func blankTrailingCommas(in []byte) []byte {
	out := bytes.Clone(in)
	comma := -1
	inString := false
	for i := 0; i < len(out); i++ {
		c := out[i]
		switch {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
			comma = -1
		case inString:
		case c == ',':
			comma = i
		case c == ']' || c == '}':
			if comma >= 0 {
				out[comma] = ' '
			}
			comma = -1
		case c != ' ' && c != '\t' && c != '\n' && c != '\r':
			comma = -1
		}
	}
	return out
}

// ignoreKey finds keys tagged `!ignore`, Envoy's way to define anchors that are no configuration.
var ignoreKey = regexp.MustCompile(`(?m)^([ \t]*)!ignore[ \t]+([^:\s]+)[ \t]*:`)

const ignoreMark = "\u2060!ignore "

// parseYAML parses a YAML document into the same kind of tree as parseJSON, with Envoy's reading of scalars.
func parseYAML(in []byte) (any, error) {
	in = ignoreKey.ReplaceAll(in, []byte(`$1"`+ignoreMark+`$2":`))
	var n yamlNode
	if err := yaml.Unmarshal(in, &n); err != nil {
		return nil, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if n.depth > depthMax {
		return nil, errDepth
	}
	return n.value, nil
}

// yamlNode is one node of a document; its UnmarshalYAML keeps what the library's own decoding would lose: the text of a plain scalar.
type yamlNode struct {
	value any
	depth int
}

// UnmarshalYAML implements yaml.Unmarshaler. A null never gets here and stays nil. Children are decoded once: the attempt of the wrong
// shape fails before it looks at them.
func (n *yamlNode) UnmarshalYAML(unmarshal func(any) error) error {
	var seq []yamlNode
	errSeq := unmarshal(&seq)
	if errSeq == nil {
		list := make([]any, len(seq))
		for i := range seq {
			list[i] = seq[i].value
			n.depth = max(n.depth, seq[i].depth+1)
		}
		n.value = list
		return nil
	}
	var m map[string]yamlNode
	errMap := unmarshal(&m)
	if errMap == nil {
		object := make(map[string]any, len(m))
		for k, v := range m {
			if strings.HasPrefix(k, ignoreMark) {
				continue
			}
			object[k] = v.value
			n.depth = max(n.depth, v.depth+1)
		}
		n.value = object
		return nil
	}
	var resolved any
	if err := unmarshal(&resolved); err != nil {
		return err
	}
	switch resolved.(type) {
	case []any:
		return errSeq
	case map[any]any:
		return errMap
	}
	return n.scalar(resolved, unmarshal)
}

func (n *yamlNode) scalar(resolved any, unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return err
	}
	if _, isText := resolved.(string); isText {
		n.value = text
		return nil
	}
	n.value = plainScalar(text)
	return nil
}

// plainScalar is Envoy's reading of an unquoted scalar: boolean, 32-bit integer, else the text itself (floats and larger integers too:
// the field's type decides later).
func plainScalar(text string) any {
	switch text {
	case "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
		return true
	case "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
		return false
	case "", "~", "null", "Null", "NULL":
		return nil
	}
	digits := strings.TrimLeft(text, "+-")
	if strings.Contains(text, "_") || (len(digits) > 1 && digits[0] == '0' && strings.ContainsAny(digits[1:2], "bBoO")) {
		return text // digit groups, 0b and 0o are no integers for Envoy
	}
	if i, err := strconv.ParseInt(text, 0, 32); err == nil {
		return json.Number(strconv.FormatInt(i, 10))
	}
	return text
}

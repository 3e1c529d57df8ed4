// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// node is one value of a JSON format.
type node struct {
	shape nodeShape
	key   string // `"key":`, inside an object
	lit   string
	ops   []op
	kids  []node
}

type nodeShape uint8

const (
	nodeLiteral nodeShape = iota
	nodeValue             // one operator: keeps its type, null when absent
	nodeString            // several parts: always a string
	nodeObject
	nodeList
)

// maxJSONDepth bounds the nesting of a JSON format.
const maxJSONDepth = 64

// CompileJSON compiles a JSON format given as a plain tree: string, float64, int, bool, nil, map[string]any and []any. Keys are printed in
// sorted order. With omitEmpty keys and list elements whose value is absent are left out.
func CompileJSON(tree map[string]any, omitEmpty bool) (*Format, error) {
	return CompileJSONOptions(tree, Options{OmitEmpty: omitEmpty})
}

// CompileJSONOptions is CompileJSON with options.
func CompileJSONOptions(tree map[string]any, o Options) (*Format, error) {
	n, err := o.compileNode("", tree, 0)
	if err != nil {
		return nil, err
	}
	return &Format{json: &n, omit: o.OmitEmpty}, nil
}

func (o Options) compileNode(path string, v any, depth int) (node, error) {
	if depth > maxJSONDepth {
		return node{}, errAt(path, errors.New("nested too deep"))
	}
	switch v := v.(type) {
	case nil:
		return node{lit: "null"}, nil
	case bool:
		return node{lit: strconv.FormatBool(v)}, nil
	case int:
		return node{lit: strconv.Itoa(v)}, nil
	case float64:
		return node{lit: string(appendNumber(nil, v))}, nil
	case string:
		return o.compileStringNode(path, v)
	case []any:
		n := node{shape: nodeList}
		for i, e := range v {
			kid, err := o.compileNode(path+"["+strconv.Itoa(i)+"]", e, depth+1)
			if err != nil {
				return n, err
			}
			n.kids = append(n.kids, kid)
		}
		return n, nil
	case map[string]any:
		return o.compileObjectNode(path, v, depth)
	}
	return node{}, errAt(path, fmt.Errorf("%T is no JSON value", v))
}

func (o Options) compileObjectNode(path string, v map[string]any, depth int) (node, error) {
	keys := make([]string, 0, len(v))
	for k := range v {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	n := node{shape: nodeObject}
	for _, k := range keys {
		sub := k
		if path != "" {
			sub = path + "." + k
		}
		kid, err := o.compileNode(sub, v[k], depth+1)
		if err != nil {
			return n, err
		}
		kid.key = string(append(appendQuoted(nil, k), ':'))
		n.kids = append(n.kids, kid)
	}
	return n, nil
}

func (o Options) compileStringNode(path, s string) (node, error) {
	ops, err := compileOps(s, o)
	switch {
	case err != nil:
		return node{}, errAt(path, err)
	case len(ops) == 0:
		return node{lit: `""`}, nil
	case len(ops) == 1 && ops[0].code == opLiteral:
		return node{lit: string(appendQuoted(nil, ops[0].text))}, nil
	case len(ops) == 1 && !o.Strings:
		return node{shape: nodeValue, ops: ops}, nil
	}
	return node{shape: nodeString, ops: ops}, nil
}

// append prints the value; ok is false when there is none and it may be left out.
func (n *node) append(b []byte, r *Record, omit bool) (_ []byte, ok bool) {
	switch n.shape {
	case nodeLiteral:
		return append(b, n.lit...), n.lit != "null"
	case nodeObject, nodeList:
		return n.appendKids(b, r, omit)
	case nodeString:
		b = append(b, '"')
		for i := range n.ops {
			from := len(b)
			var k kind
			if b, k = n.ops[i].append(b, r, false); k == absent && !omit {
				b = append(b, '-')
			}
			b = escapeFrom(b, from)
		}
		return append(b, '"'), true
	}
	from := len(b)
	b, k := n.ops[0].append(append(b, '"'), r, true)
	switch k {
	case text:
		return append(escapeFrom(b, from+1), '"'), true
	case absent:
		return append(b[:from], "null"...), false
	}
	copy(b[from:], b[from+1:]) // numbers and JSON values stand without the quote
	return b[:len(b)-1], true
}

// appendKids prints an object or a list. An object that came out empty may be left out itself, an empty list may not, as in Envoy.
func (n *node) appendKids(b []byte, r *Record, omit bool) (_ []byte, ok bool) {
	open, end := byte('['), byte(']')
	if n.shape == nodeObject {
		open, end = '{', '}'
	}
	b = append(b, open)
	first := true
	for i := range n.kids {
		mark := len(b)
		if !first {
			b = append(b, ',')
		}
		b = append(b, n.kids[i].key...)
		var ok bool
		if b, ok = n.kids[i].append(b, r, omit); !ok && omit {
			b = b[:mark]
			continue
		}
		first = false
	}
	return append(b, end), !first || n.shape == nodeList
}

func (n *node) uses(code opcode) bool {
	if uses(n.ops, code) {
		return true
	}
	for i := range n.kids {
		if n.kids[i].uses(code) {
			return true
		}
	}
	return false
}

const hexDigits = "0123456789abcdef"

// escapeLen is how many bytes c takes inside a JSON string. In a value that is not UTF-8 (bytewise) everything special becomes \u00xx, bytes
// above 0x7e included; in any other the short escapes of RFC 8259 are used. Both are Envoy's forms.
func escapeLen(c byte, bytewise bool) int {
	switch {
	case c >= 0x20 && c != '"' && c != '\\':
		if bytewise && c > 0x7e {
			return 6
		}
		return 1
	case bytewise:
		return 6
	case c == '"' || c == '\\' || shortEscape(c) != 0:
		return 2
	}
	return 6
}

func shortEscape(c byte) byte {
	switch c {
	case '\b':
		return 'b'
	case '\t':
		return 't'
	case '\n':
		return 'n'
	case '\f':
		return 'f'
	case '\r':
		return 'r'
	case '"', '\\':
		return c
	}
	return 0
}

// escapeFrom makes b[from:] the inside of a JSON string, in place.
func escapeFrom(b []byte, from int) []byte {
	size, high := 0, false
	for _, c := range b[from:] {
		size += escapeLen(c, false)
		high = high || c >= utf8.RuneSelf
	}
	bytewise := high && !utf8.Valid(b[from:])
	if bytewise {
		size = 0
		for _, c := range b[from:] {
			size += escapeLen(c, true)
		}
	}
	src := len(b) - 1
	if size == src+1-from {
		return b
	}
	for len(b) < from+size {
		b = append(b, 0)
	}
	// From the end backwards, so that nothing is overwritten before it is read.
	for dst := len(b) - 1; src >= from; src-- {
		c := b[src]
		n := escapeLen(c, bytewise)
		switch n {
		case 1:
			b[dst] = c
		case 2:
			b[dst-1], b[dst] = '\\', shortEscape(c)
		default:
			copy(b[dst-5:], `\u00`)
			b[dst-1], b[dst] = hexDigits[c>>4], hexDigits[c&15]
		}
		dst -= n
	}
	return b
}

// appendQuoted appends s as a JSON string.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	from := len(b)
	return append(escapeFrom(append(b, s...), from), '"')
}

// appendNumber appends a number of a metadata value: integers without a fraction, everything else in the shortest form that reads back.
func appendNumber(b []byte, v float64) []byte {
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		return strconv.AppendInt(b, int64(v), 10)
	}
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(b, "null"...)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

// appendPlain appends a plain value (metadata) as JSON with sorted keys. Objects of up to 32 keys need no memory.
func appendPlain(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		return strconv.AppendBool(b, v)
	case float64:
		return appendNumber(b, v)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case string:
		return appendQuoted(b, v)
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendPlain(b, e)
		}
		return append(b, ']')
	case map[string]any:
		var room [32]string
		keys := room[:0]
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		b = append(b, '{')
		for i, k := range keys {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendPlain(append(appendQuoted(b, k), ':'), v[k])
		}
		return append(b, '}')
	}
	return append(b, "null"...)
}

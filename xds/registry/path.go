// SPDX-License-Identifier: Apache-2.0

package registry

import "strconv"

// Path is the place of a field inside a resource, in proto field names: `filter_chains[0].filters[2].typed_config.stat_prefix`.
// The zero value is the resource itself.
type Path string

// Field returns the path of field name below p.
func (p Path) Field(name string) Path {
	if p == "" {
		return Path(name)
	}
	return p + "." + Path(name)
}

// Index returns the path of element i of the repeated field name below p.
func (p Path) Index(name string, i int) Path {
	return p.Field(name) + Path("["+strconv.Itoa(i)+"]")
}

// Key returns the path of the entry with the given key of the map field name below p.
func (p Path) Key(name, key string) Path {
	return p.Field(name) + Path("["+strconv.Quote(key)+"]")
}

// Join returns the path of sub (itself a path) below p.
func (p Path) Join(sub Path) Path {
	if sub == "" {
		return p
	}
	return p.Field(string(sub))
}

// String returns the path, or "(root)" for the resource itself so that an error text never starts with a colon.
func (p Path) String() string {
	if p == "" {
		return "(root)"
	}
	return string(p)
}

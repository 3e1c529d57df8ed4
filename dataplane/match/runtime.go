// SPDX-License-Identifier: Apache-2.0

// Package match holds the matchers that configuration compiles to: strings, headers, numbers, address ranges, runtime fractions. All of them
// are immutable and allocate nothing when they run.
package match

// Runtime is one immutable generation of the layered runtime (bootstrap layers, admin layer): final values by key. A nil Runtime is empty.
type Runtime struct {
	values map[string]Value
}

// Value is one runtime value in the forms that readers ask for.
type Value struct {
	Text    string
	Num     float64
	IsNum   bool
	Bool    bool
	IsBool  bool
	Percent Fraction // a value given as FractionalPercent
	IsFrac  bool
}

// Fraction is a numerator over 100, 10,000 or 1,000,000 (envoy.type.v3.FractionalPercent).
type Fraction struct{ Num, Den uint32 }

// Hit tells whether rnd falls into the fraction, exactly as Envoy: rnd mod Den < Num.
func (f Fraction) Hit(rnd uint64) bool { return rnd%uint64(f.Den) < uint64(f.Num) }

// RuntimeFraction is envoy.config.core.v3.RuntimeFractionalPercent: a default and a key that may override it.
type RuntimeFraction struct {
	Default Fraction
	Key     string
}

// NewRuntime makes a generation; it keeps values.
func NewRuntime(values map[string]Value) *Runtime { return &Runtime{values: values} }

// Lookup returns the value of key.
func (r *Runtime) Lookup(key string) (Value, bool) {
	if r == nil || len(r.values) == 0 || key == "" {
		return Value{}, false
	}
	v, ok := r.values[key]
	return v, ok
}

// Fraction resolves f: a FractionalPercent value wins as it is, a plain number n means n out of f.Default.Den's unit of 100 as Envoy does.
func (r *Runtime) Fraction(f RuntimeFraction) Fraction {
	v, ok := r.Lookup(f.Key)
	switch {
	case !ok:
		return f.Default
	case v.IsFrac:
		return v.Percent
	case v.IsNum && v.Num >= 0:
		return Fraction{uint32(min(v.Num, 100)), 100}
	}
	return f.Default
}

// Number returns the numeric value of key, or def.
func (r *Runtime) Number(key string, def float64) float64 {
	if v, ok := r.Lookup(key); ok && v.IsNum {
		return v.Num
	}
	return def
}

// Enabled returns the boolean value of key, or def.
func (r *Runtime) Enabled(key string, def bool) bool {
	if v, ok := r.Lookup(key); ok && v.IsBool {
		return v.Bool
	}
	return def
}

// Each calls fn for every value in no particular order.
func (r *Runtime) Each(fn func(key string, v Value)) {
	if r == nil {
		return
	}
	for k, v := range r.values {
		fn(k, v)
	}
}

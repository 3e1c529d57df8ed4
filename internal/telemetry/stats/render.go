// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"html"
	"io"
	"math"
	"strconv"
	"strings"
)

// appendG prints a float as Envoy's logs do: shortest form that reads back, "nan" for none.
func appendG(b []byte, v float64) []byte {
	if math.IsNaN(v) {
		return append(b, "nan"...)
	}
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.AppendInt(b, int64(v), 10)
	}
	return strconv.AppendFloat(b, v, 'g', -1, 64)
}

// appendG6 is C's %g: six significant digits, as bucket bounds are printed in text.
func appendG6(b []byte, v float64) []byte { return strconv.AppendFloat(b, v, 'g', 6, 64) }

func appendJSONNumber(b []byte, v float64) []byte {
	if math.IsNaN(v) {
		return append(b, "null"...)
	}
	return appendG(b, v)
}

// outputChunk is how much of a rendered list is in memory at once, the longest line apart.
const outputChunk = 32 << 10

// output writes what was appended to b in chunks; after an error it takes everything and writes nothing.
type output struct {
	w   io.Writer
	b   []byte
	err error
}

// full writes b when it holds a chunk.
func (o *output) full() {
	if len(o.b) >= outputChunk {
		o.flush()
	}
}

func (o *output) flush() {
	if o.err == nil && len(o.b) > 0 {
		_, o.err = o.w.Write(o.b)
	}
	o.b = o.b[:0]
}

// end writes the rest and returns the first error.
func (o *output) end() error {
	o.flush()
	return o.err
}

// lists calls fn for every metric in the order of Envoy's text and JSON lists: text readouts, then counters and gauges together, then histograms,
// each sorted by name.
func (v *View) lists(q *Query, fn func(*Metric)) {
	for _, kinds := range [...][4]bool{{Text: true}, {Counter: true, Gauge: true}, {Histogram: true}} {
		part, any := *q, false
		for k := range kinds {
			part.Kinds[k] = kinds[k] && q.wants(Kind(k))
			any = any || part.Kinds[k]
		}
		if any {
			v.Each(&part, fn)
		}
	}
}

// Text renders "name: value" lines.
func (v *View) Text(w io.Writer, q *Query) error {
	out := &output{w: w}
	v.lists(q, func(m *Metric) {
		out.b = m.appendText(out.b, q)
		out.full()
	})
	return out.end()
}

func (m *Metric) appendText(b []byte, q *Query) []byte {
	b = append(append(b, m.Name...), ": "...)
	switch m.Kind {
	case Text:
		b = append(append(append(b, '"'), m.Text...), '"')
	case Histogram:
		if m.Hist == nil {
			b = append(b, "No recorded values"...)
		} else {
			b = m.Hist.appendText(b, q.Buckets)
		}
	default:
		b = strconv.AppendUint(b, m.Value, 10)
	}
	return append(b, '\n')
}

func (s *Summary) appendText(b []byte, mode BucketMode) []byte {
	switch mode {
	case BucketsCumulative, BucketsDisjoint:
		i, c := s.cumulative(s.Interval), s.cumulative(s.Total)
		if mode == BucketsDisjoint {
			i, c = disjoint(i), disjoint(c)
		}
		for n, bound := range s.Bounds {
			if n > 0 {
				b = append(b, ' ')
			}
			b = append(appendG6(append(b, 'B'), bound), '(')
			b = strconv.AppendUint(append(strconv.AppendUint(b, i[n], 10), ','), c[n], 10)
			b = append(b, ')')
		}
		return b
	case BucketsDetailed:
		b = appendDetail(append(b[:len(b)-1], "\n  totals="...), s.Total)
		b = appendDetail(append(b, "\n  intervals="...), s.Interval)
		return s.appendQuantiles(append(b, "\n  summary="...))
	}
	return s.appendQuantiles(b)
}

func appendDetail(b []byte, d HistData) []byte {
	for i, x := range d {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendG(append(appendG(b, x.Low), ','), x.Width)
		b = strconv.AppendUint(append(b, ':'), x.Count, 10)
	}
	return b
}

func (s *Summary) appendQuantiles(b []byte) []byte {
	i, c := s.quantiles(s.Interval), s.quantiles(s.Total)
	for n, name := range quantileNames {
		if n > 0 {
			b = append(b, ' ')
		}
		b = append(append(append(b, 'P'), name...), '(')
		b = append(appendG(append(appendG(b, i[n]), ','), c[n]), ')')
	}
	return b
}

// JSON renders Envoy's {"stats":[…]} document.
func (v *View) JSON(w io.Writer, q *Query) error {
	out := &output{w: w, b: []byte(`{"stats":[`)}
	first := true
	hists := false
	v.lists(q, func(m *Metric) {
		b := out.b
		if m.Kind == Histogram {
			if !hists {
				b = startHistograms(comma(b, &first), q.Buckets)
				hists, first = true, true
			}
			if m.Hist == nil {
				m.Hist = &Summary{Bounds: v.bounds(m.Name)}
			}
			b = m.Hist.appendJSON(comma(b, &first), m.Name, q.Buckets)
		} else {
			b = appendQuoted(append(comma(b, &first), `{"name":`...), m.Name)
			b = append(b, `,"value":`...)
			if m.Kind == Text {
				b = appendQuoted(b, m.Text)
			} else {
				b = strconv.AppendUint(b, m.Value, 10)
			}
			b = append(b, '}')
		}
		out.b = b
		out.full()
	})
	if hists {
		out.b = append(out.b, ']')
		if q.Buckets != BucketsCumulative && q.Buckets != BucketsDisjoint {
			out.b = append(out.b, '}')
		}
		out.b = append(out.b, '}')
	}
	out.b = append(out.b, "]}"...)
	return out.end()
}

func comma(b []byte, first *bool) []byte {
	if !*first {
		b = append(b, ',')
	}
	*first = false
	return b
}

func startHistograms(b []byte, mode BucketMode) []byte {
	b = append(b, `{"histograms":`...)
	list := "[" + strings.Join(quantileNames[:], ",") + "]"
	switch mode {
	case BucketsCumulative, BucketsDisjoint:
		return append(b, '[')
	case BucketsDetailed:
		return append(b, `{"supported_percentiles":`+list+`,"details":[`...)
	}
	return append(b, `{"supported_quantiles":`+list+`,"computed_quantiles":[`...)
}

func (s *Summary) appendJSON(b []byte, name string, mode BucketMode) []byte {
	b = appendQuoted(append(b, `{"name":`...), name)
	switch mode {
	case BucketsCumulative, BucketsDisjoint:
		i, c := s.cumulative(s.Interval), s.cumulative(s.Total)
		if mode == BucketsDisjoint {
			i, c = disjoint(i), disjoint(c)
		}
		b = append(b, `,"buckets":[`...)
		first := true
		for n, bound := range s.Bounds {
			b = appendG(append(comma(b, &first), `{"upper_bound":`...), bound)
			b = strconv.AppendUint(append(b, `,"interval":`...), i[n], 10)
			b = append(strconv.AppendUint(append(b, `,"cumulative":`...), c[n], 10), '}')
		}
		return append(b, "]}"...)
	case BucketsDetailed:
		b = appendDetailJSON(append(b, `,"totals":`...), s.Total)
		b = appendDetailJSON(append(b, `,"intervals":`...), s.Interval)
		b = append(b, `,"percentiles":`...)
	default:
		b = append(b, `,"values":`...)
	}
	i, c := s.quantiles(s.Interval), s.quantiles(s.Total)
	b = append(b, '[')
	first := true
	for n := range quantileNames {
		b = appendJSONNumber(append(comma(b, &first), `{"cumulative":`...), c[n])
		b = append(appendJSONNumber(append(b, `,"interval":`...), i[n]), '}')
	}
	return append(b, "]}"...)
}

func appendDetailJSON(b []byte, d HistData) []byte {
	b = append(b, '[')
	first := true
	for _, x := range d {
		b = appendG(append(comma(b, &first), `{"lower_bound":`...), x.Low)
		b = appendG(append(b, `,"width":`...), x.Width)
		b = append(strconv.AppendUint(append(b, `,"count":`...), x.Count, 10), '}')
	}
	return append(b, ']')
}

const hexDigits = "0123456789abcdef"

func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20:
			b = append(b, '\\', 'u', '0', '0', hexDigits[r>>4], hexDigits[r&15])
		default:
			b = append(b, string(r)...)
		}
	}
	return append(b, '"')
}

// HTML renders the text list as a page.
func (v *View) HTML(w io.Writer, q *Query) error {
	out := &output{w: w}
	out.b = append(out.b, "<!DOCTYPE html>\n<html lang='en'>\n<head><title>Admin: stats</title></head>\n<body>\n<pre>\n"...)
	var line []byte
	v.lists(q, func(m *Metric) {
		line = m.appendText(line[:0], q)
		out.b = append(out.b, html.EscapeString(string(line))...)
		out.full()
	})
	out.b = append(out.b, "</pre>\n</body>\n</html>\n"...)
	return out.end()
}

// SPDX-License-Identifier: Apache-2.0

package stats

import (
	"cmp"
	"html"
	"math"
	"math/big"
	"slices"
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

// Text renders "name: value" lines.
func (v *View) Text(b []byte, q *Query) []byte {
	list := v.Collect(q)
	sortForLists(list)
	for i := range list {
		m := &list[i]
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
		b = append(b, '\n')
	}
	return b
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
func (v *View) JSON(b []byte, q *Query) []byte {
	list := v.Collect(q)
	sortForLists(list)
	b = append(b, `{"stats":[`...)
	first := true
	hists := false
	for i := range list {
		m := &list[i]
		if m.Kind == Histogram {
			if !hists {
				b = startHistograms(comma(b, &first), q.Buckets)
				hists, first = true, true
			}
			if m.Hist == nil {
				m.Hist = &Summary{Bounds: v.bounds(m.Name)}
			}
			b = m.Hist.appendJSON(comma(b, &first), m.Name, q.Buckets)
			continue
		}
		b = appendQuoted(append(comma(b, &first), `{"name":`...), m.Name)
		b = append(b, `,"value":`...)
		if m.Kind == Text {
			b = appendQuoted(b, m.Text)
		} else {
			b = strconv.AppendUint(b, m.Value, 10)
		}
		b = append(b, '}')
	}
	if hists {
		b = append(b, ']')
		if q.Buckets != BucketsCumulative && q.Buckets != BucketsDisjoint {
			b = append(b, '}')
		}
		b = append(b, '}')
	}
	return append(b, "]}"...)
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

type promMetric struct {
	name   string
	labels string
	m      *Metric
}

// Prometheus renders the text exposition format 0.0.4: counters, gauges, (text readouts as gauges,) histograms, each group sorted by name
// with one TYPE line.
func (v *View) Prometheus(b []byte, q *Query) []byte {
	for _, kind := range [...]Kind{Counter, Gauge, Text, Histogram} {
		if !q.wants(kind) || kind == Text && !q.TextReadouts {
			continue
		}
		// One kind at a time, so that not all metrics of a large configuration are in memory together.
		one := *q
		one.Kinds = [4]bool{}
		one.Kinds[kind] = true
		list := v.Collect(&one)
		group := make([]promMetric, 0, len(list))
		for i := range list {
			m := &list[i]
			name, tags := v.tags.Extract(m.Name)
			if m.Kind == Histogram && m.Hist == nil {
				m.Hist = &Summary{Bounds: v.bounds(m.Name)}
			}
			group = append(group, promMetric{promName(name), promLabels(tags), m})
		}
		slices.SortStableFunc(group, func(x, y promMetric) int { return cmp.Compare(x.name, y.name) })
		last := ""
		for _, g := range group {
			if g.name != last {
				b = append(append(append(b, "# TYPE "...), g.name...), ' ')
				b = append(append(b, [...]string{Counter: "counter", Gauge: "gauge", Histogram: "histogram", Text: "gauge"}[kind]...), '\n')
				last = g.name
			}
			b = g.append(b)
		}
	}
	return b
}

func (g *promMetric) append(b []byte) []byte {
	switch g.m.Kind {
	case Histogram:
		return g.appendHistogram(b)
	case Text:
		sep := ""
		if g.labels != "" {
			sep = ","
		}
		b = append(append(append(append(b, g.name...), '{'), g.labels+sep...), `text_value="`...)
		return append(append(b, promValue(g.m.Text)...), "\"} 0\n"...)
	}
	b = append(append(append(append(b, g.name...), '{'), g.labels...), "} "...)
	return append(strconv.AppendUint(b, g.m.Value, 10), '\n')
}

func (g *promMetric) appendHistogram(b []byte) []byte {
	s := g.m.Hist
	sep := ""
	if g.labels != "" {
		sep = ","
	}
	line := func(b []byte, le string, n uint64) []byte {
		b = append(append(append(b, g.name...), "_bucket{"...), g.labels+sep+`le="`+le+`"} `...)
		return append(strconv.AppendUint(b, n, 10), '\n')
	}
	c := s.cumulative(s.Total)
	for i, bound := range s.Bounds {
		b = line(b, strconv.FormatFloat(bound, 'f', -1, 64), c[i])
	}
	n := s.Total.Count()
	b = line(b, "+Inf", n)
	b = append(append(append(append(b, g.name...), "_sum{"...), g.labels...), "} "...)
	b = append(appendG32(b, s.Total.Sum()), '\n')
	b = append(append(append(append(b, g.name...), "_count{"...), g.labels...), "} "...)
	return append(strconv.AppendUint(b, n, 10), '\n')
}

// appendG32 is C's %.32g, in which Envoy prints sums.
func appendG32(b []byte, v float64) []byte {
	s := new(big.Float).SetFloat64(v).Text('g', 32)
	return append(b, s...)
}

// promName makes a metric name: "envoy_" and the name with everything outside [a-zA-Z0-9_] as '_'.
func promName(name string) string { return "envoy_" + promClean(name) }

func promClean(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, s)
}

var promEscape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func promValue(s string) string { return promEscape.Replace(strings.ToValidUTF8(s, "�")) }

func promLabels(tags []Tag) string {
	var b strings.Builder
	for i, t := range tags {
		if i > 0 {
			b.WriteByte(',')
		}
		name := promClean(t.Name)
		if name == "" || name[0] >= '0' && name[0] <= '9' {
			name = "_" + name
		}
		b.WriteString(name + `="` + promValue(t.Value) + `"`)
	}
	return b.String()
}

// HTML renders the text list as a page.
func (v *View) HTML(b []byte, q *Query) []byte {
	b = append(b, "<!DOCTYPE html>\n<html lang='en'>\n<head><title>Admin: stats</title></head>\n<body>\n<pre>\n"...)
	b = append(b, html.EscapeString(string(v.Text(nil, q)))...)
	return append(b, "</pre>\n</body>\n</html>\n"...)
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"html"
	"math"
	"sort"
	"strings"
)

var peerColours = map[string]string{"nginx": "#2f8f4e", "haproxy": "#2b6cb0", "envoy": "#b83280", "iocopy": "#718096"}

// Geometry of the plot in pixels.
const (
	plotLeft, plotWidth = 230, 560
	barHeight, groupGap = 14, 16
	plotTop, plotFoot   = 64, 56
	leastRatio          = 0.05
	mostRatio           = 4.0
)

// plotX maps a ratio to a pixel: a logarithmic axis, on which half and double are equally far from one.
func plotX(v float64) float64 {
	v = min(max(v, leastRatio), mostRatio)
	return plotLeft + plotWidth*math.Log(v/leastRatio)/math.Log(mostRatio/leastRatio)
}

// svg draws, for the first metric of each scenario, sidecar divided by each peer: a bar to the median, a line from least to most.
func (r *report) svg() string {
	var body strings.Builder
	y := float64(plotTop)
	for _, sc := range scenarios {
		ratios := r.Ratios[sc.name][sc.metrics[0]]
		if len(ratios) == 0 {
			continue
		}
		better := "lower is better"
		if sc.higher {
			better = "higher is better"
		}
		peers := make([]string, 0, len(ratios))
		for p := range ratios {
			peers = append(peers, p)
		}
		sort.Strings(peers)
		fmt.Fprintf(&body, `<text x="8" y="%.0f" font-weight="bold">%s</text><text x="8" y="%.0f" fill="#555">%s, %s</text>`+"\n",
			y+11, html.EscapeString(sc.name), y+25, html.EscapeString(sc.metrics[0]), better)
		for i, p := range peers {
			q, top := ratios[p], y+float64(i*(barHeight+2))
			one, x := plotX(1), plotX(q.Median)
			fmt.Fprintf(&body, `<rect x="%.1f" y="%.0f" width="%.1f" height="%d" fill="%s"/>`, min(one, x), top, max(math.Abs(x-one), 1), barHeight, peerColours[p])
			fmt.Fprintf(&body, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#000"/>`, plotX(q.Min), top+barHeight/2, plotX(q.Max), top+barHeight/2)
			fmt.Fprintf(&body, `<text x="%d" y="%.0f">%.2f × %s</text>`+"\n", plotLeft+plotWidth+8, top+11, q.Median, html.EscapeString(p))
		}
		y += max(float64(len(peers)*(barHeight+2)), 30) + groupGap
	}
	var w strings.Builder
	height := y + plotFoot
	fmt.Fprintf(&w, `<svg xmlns="http://www.w3.org/2000/svg" width="960" height="%.0f" font-family="sans-serif" font-size="12">`+"\n", height)
	fmt.Fprintf(&w, `<rect width="960" height="%.0f" fill="#fff"/><text x="8" y="22" font-size="16" font-weight="bold">sidecar divided by each peer</text>`+"\n", height)
	fmt.Fprintf(&w, `<text x="8" y="42" fill="#555">median of %s interleaved rounds, line from least to most; %s; Linux %s; %s</text>`+"\n", r.Environment["rounds"],
		html.EscapeString(r.Environment["cpu"]), html.EscapeString(r.Environment["kernel"]), r.Environment["date"])
	for _, v := range []float64{0.05, 0.1, 0.25, 0.5, 1, 2, 4} {
		stroke := "#ddd"
		if v == 1 {
			stroke = "#000"
		}
		fmt.Fprintf(&w, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%.0f" stroke="%s"/><text x="%.1f" y="%.0f" text-anchor="middle">%g</text>`+"\n",
			plotX(v), plotTop-8, plotX(v), y, stroke, plotX(v), y+16, v)
	}
	w.WriteString(body.String())
	fmt.Fprintf(&w, `<text x="8" y="%.0f" fill="#555">%s</text></svg>`+"\n", height-12, html.EscapeString(r.Environment["command"]))
	return w.String()
}

// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"net"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// normaliser replaces what legitimately differs between two runs (ports, dates, ids, durations) by names.
type normaliser struct {
	ports *strings.Replacer
	dir   string
	extra []rule
}

type rule struct {
	re  *regexp.Regexp
	out string
}

var commonRules = []rule{
	{regexp.MustCompile(`(?i)\b(date|last-modified): (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT`), "$1: <date>"},
	{regexp.MustCompile(`(?i)(x-envoy-upstream-service-time): \d+`), "$1: <ms>"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<uuid>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`), "<time>"},
	// What is left of a certificate depends on the day; the day it ends is compared.
	{regexp.MustCompile(`("days_until_expiration": ?)"\d+"`), `${1}"<days>"`},
	// Any loopback port that has no name is the client's or an upstream connection's own.
	{regexp.MustCompile(`(127\.0\.0\.\d+):\d{4,5}\b`), "$1:<ephemeral>"},
}

// localIP is the address that stands in for a loopback peer in X-Forwarded-For, as Envoy picks it: the first non-loopback IPv4 address of the
// machine, or 127.0.0.1 when there is none.
func localIP() string {
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}

// localIPRule names that address where it ends an X-Forwarded-For list; elsewhere it may be an ordinary one.
func localIPRule(ip string) rule {
	return rule{regexp.MustCompile(`(?m)(x-forwarded-for: (?:.*,)?)` + regexp.QuoteMeta(ip) + `$`), "${1}<local-ip>"}
}

func newNormaliser(v *vars, extra [][2]string) (*normaliser, error) {
	names := make([]string, 0, len(v.ports))
	for n := range v.ports {
		names = append(names, n)
	}
	sort.Strings(names)
	var pairs []string
	for _, n := range names {
		p := strconv.Itoa(v.ports[n])
		pairs = append(pairs, ":"+p, ":{"+n+"}", "_"+p, "_{"+n+"}")
	}
	n := &normaliser{ports: strings.NewReplacer(pairs...), dir: v.dir, extra: []rule{localIPRule(localIP())}}
	more, err := rules(extra)
	n.extra = append(n.extra, more...)
	return n, err
}

// rules compiles [regexp, replacement] pairs.
func rules(pairs [][2]string) (out []rule, err error) {
	for _, p := range pairs {
		re, err := regexp.Compile(p[0])
		if err != nil {
			return nil, err
		}
		out = append(out, rule{re, p[1]})
	}
	return out, nil
}

func (n *normaliser) text(s string) string {
	s = n.ports.Replace(s)
	if n.dir != "" {
		s = strings.ReplaceAll(s, n.dir, "{dir}")
	}
	for _, r := range commonRules {
		s = r.re.ReplaceAllString(s, r.out)
	}
	for _, r := range n.extra {
		s = r.re.ReplaceAllString(s, r.out)
	}
	return s
}

// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"encoding/json"
	"errors"
	"html"
	"io"
	"net/http"
	"regexp"
	"regexp/syntax"
	"runtime"
	"sort"
	"strings"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"

	"sidecar/internal/telemetry/log"
	"sidecar/internal/telemetry/stats"
)

// endpoint is one path.
type endpoint struct {
	path, help string
	post       bool
	params     [][2]string
	serve      func(*http.Request, query) reply
}

// endpoints is the table of all paths in the order of /help; it is one row per path, hence its length.
func (s *Server) endpoints() []*endpoint {
	noBuild := func(what string) func(*http.Request, query) reply {
		return func(*http.Request, query) reply { return bad(501, "The current build does not support "+what) }
	}
	list := []*endpoint{
		{path: "/", help: "Admin home page", serve: s.index},
		{path: "/certs", help: "print certs on machine", serve: s.certs, params: [][2]string{{"verbose", "Add every secret with its stage and last error"}}},
		{path: "/clusters", help: "upstream cluster status", params: [][2]string{{"filter", "Regular expression (Google re2) for filtering clusters by name"}}, serve: s.clusters},
		{path: "/config_dump", help: "dump current Envoy configs", params: [][2]string{{"resource", "The resource to dump"},
			{"mask", "The mask to apply. When both resource and mask are specified, the mask is applied to every element in the desired repeated field"},
			{"name_regex", "Dump only the currently loaded configurations whose names match the specified regex"},
			{"include_eds", "Dump currently loaded configuration including EDS"}}, serve: s.configDump},
		{path: "/contention", help: "dump current Envoy mutex contention stats (if enabled)", serve: func(*http.Request, query) reply {
			return ok("Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.")
		}},
		{path: "/cpuprofiler", post: true, help: "enable/disable the CPU profiler", params: [][2]string{{"enable", "enables the CPU profiler; One of (y, n)"}}, serve: noBuild("cpu profiler")},
		{path: "/drain_listeners", post: true, help: "drain listeners", params: [][2]string{{"graceful", "enter a graceful drain period prior to closing listeners"},
			{"skip_exit", "drain the connections but never stop the listeners"}, {"inboundonly", "drain inbound listeners only"}}, serve: s.drain},
		{path: "/healthcheck/fail", post: true, help: "cause the server to fail health checks", serve: s.health(true)},
		{path: "/healthcheck/ok", post: true, help: "cause the server to pass health checks", serve: s.health(false)},
		{path: "/heap_dump", help: "dump current Envoy heap (if supported)", serve: noBuild("heap dump")},
		{path: "/heapprofiler", post: true, help: "enable/disable the heap profiler", params: [][2]string{{"enable", "enable/disable the heap profiler; One of (y, n)"}}, serve: noBuild("heap profiler")},
		{path: "/help", help: "print out list of admin commands", serve: func(*http.Request, query) reply { return ok(s.help()) }},
		{path: "/hot_restart_version", help: "print the hot restart compatibility version", serve: func(*http.Request, query) reply { return ok("disabled") }},
		{path: "/init_dump", help: "dump current Envoy init manager information (experimental)", params: [][2]string{{"mask", "The desired component to dump unready targets"}}, serve: s.initDump},
		{path: "/listeners", help: "print listener info", params: [][2]string{{"format", "File format to use; One of (text, json)"}}, serve: s.listeners},
		{path: "/logging", post: true, help: "query/change logging levels", params: [][2]string{
			{"paths", "Change multiple logging levels by setting to <logger_name1>:<desired_level1>,<logger_name2>:<desired_level2>"},
			{"level", "desired logging level, this will change all loggers's level; One of (, trace, debug, info, warning, error, critical, off)"}}, serve: s.logging},
		{path: "/memory", help: "print current allocation/heap usage", serve: s.memory},
		{path: "/quitquitquit", post: true, help: "exit the server", serve: s.act(func(src *Sources) func() { return src.Quit })},
		{path: "/ready", help: "print server state, return 200 if LIVE, otherwise return 503", serve: s.ready},
		{path: "/reopen_logs", post: true, help: "reopen access logs", serve: s.act(func(src *Sources) func() { return src.ReopenLogs })},
		{path: "/reset_counters", post: true, help: "reset all counters to zero", serve: s.resetCounters},
		{path: "/runtime", help: "print runtime values", serve: s.runtime},
		{path: "/runtime_modify", post: true, help: "Adds or modifies runtime values as passed in query parameters. To delete a previously added key, use an empty string as the value", serve: s.runtimeModify},
		{path: "/server_info", help: "print server version/status information", serve: s.serverInfo},
		{path: "/stats", help: "print server stats", params: [][2]string{{"usedonly", "Only include stats that have been written by system since restart"},
			{"filter", "Regular expression (Google re2) for filtering stats"}, {"format", "Format to use; One of (html, active-html, text, json)"},
			{"type", "Stat types to include.; One of (All, Counters, Histograms, Gauges, TextReadouts)"},
			{"histogram_buckets", "Histogram bucket display mode; One of (cumulative, disjoint, detailed, summary)"}}, serve: s.stats},
		{path: "/stats/prometheus", help: "print server stats in prometheus format", params: [][2]string{{"usedonly", "Only include stats that have been written by system since restart"},
			{"text_readouts", "Render text_readouts as new gauges with value 0 (increases Prometheus data size)"},
			{"filter", "Regular expression (Google re2) for filtering stats"}}, serve: s.prometheus},
		{path: "/stats/recentlookups", help: "Show recent stat-name lookups", serve: func(*http.Request, query) reply {
			return ok("Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n")
		}},
		{path: "/steering", help: "how accepted connections are spread over workers", serve: s.steering},
		{path: "/xds", help: "rejected resources and warnings, with field paths and since when", serve: s.xds},
	}
	return list
}

func (s *Server) help() string {
	var b strings.Builder
	b.WriteString("admin commands are:\n")
	for _, e := range s.list {
		b.WriteString("  " + e.path)
		if e.post {
			b.WriteString(" (POST)")
		}
		b.WriteString(": " + e.help + "\n")
		for _, p := range e.params {
			b.WriteString("      " + p[0] + ": " + p[1] + "\n")
		}
	}
	return b.String()
}

func (s *Server) index(*http.Request, query) reply {
	var b strings.Builder
	b.WriteString("<!DOCTYPE html>\n<html lang='en'>\n<head><title>Envoy Admin</title></head>\n<body>\n<table>\n<tr><th>Command</th><th>Description</th></tr>\n")
	for _, e := range s.list[1:] {
		name, help := html.EscapeString(strings.TrimPrefix(e.path, "/")), html.EscapeString(e.help)
		if e.post {
			b.WriteString("<tr><td><form action='" + name + "' method='post'><button>" + name + "</button></form></td><td>" + help + "</td></tr>\n")
			continue
		}
		b.WriteString("<tr><td><a href='" + name + "'>" + name + "</a></td><td>" + help + "</td></tr>\n")
	}
	b.WriteString("</table>\n</body>\n</html>\n")
	return reply{code: 200, ctyp: htmlType, body: []byte(b.String())}
}

func (s *Server) act(pick func(*Sources) func()) func(*http.Request, query) reply {
	return func(*http.Request, query) reply {
		if fn := pick(&s.cfg.Sources); fn != nil {
			fn()
			return ok("OK\n")
		}
		return bad(501, "not supported\n")
	}
}

func (s *Server) ready(*http.Request, query) reply {
	st := adminv3.ServerInfo_INITIALIZING
	if s.cfg.Sources.State != nil {
		st = s.cfg.Sources.State()
	}
	if st == adminv3.ServerInfo_LIVE {
		return ok("LIVE\n")
	}
	return bad(503, st.String()+"\n")
}

func (s *Server) drain(_ *http.Request, q query) reply {
	if s.cfg.Sources.DrainListeners == nil {
		return bad(501, "not supported\n")
	}
	s.cfg.Sources.DrainListeners(Drain{Graceful: q.has("graceful"), SkipExit: q.has("skip_exit"), InboundOnly: q.has("inboundonly")})
	return ok("OK\n")
}

func (s *Server) health(fail bool) func(*http.Request, query) reply {
	return func(*http.Request, query) reply {
		if s.cfg.Sources.HealthCheck == nil {
			return bad(501, "not supported\n")
		}
		s.cfg.Sources.HealthCheck(fail)
		return ok("OK\n")
	}
}

func (s *Server) resetCounters(*http.Request, query) reply {
	s.cfg.Sources.Registry.ResetCounters()
	return ok("OK\n")
}

const loggingUsage = "usage: /logging?<name>=<level> (change single level)\n" +
	"usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n" +
	"usage: /logging?level=<level> (change all levels)\n" +
	"usage: /logging?group=<group_name>:<level> (change group of loggers)\n" +
	"levels: trace debug info warning error critical off \n"

func (s *Server) logging(_ *http.Request, q query) reply {
	m := s.cfg.Sources.Logging
	if err := changeLevels(m, q); err != nil {
		return bad(400, "error: "+err.Error()+"\n"+loggingUsage)
	}
	var b strings.Builder
	b.WriteString("active loggers:\n")
	m.Levels(func(name string, l log.Level) { b.WriteString("  " + name + ": " + l.String() + "\n") })
	b.WriteString("\n")
	return ok(b.String())
}

// changeLevels applies the parameters; nothing changes when any of them is wrong.
func changeLevels(m *log.Manager, q query) error {
	if len(q) == 0 {
		return nil
	}
	if len(q) > 1 {
		return errors.New("invalid number of parameters")
	}
	p := q[0]
	if p.key == "level" {
		l, ok := log.ParseLevel(p.value)
		if !ok {
			return errors.New("unknown logger level")
		}
		m.SetAll(l)
		return nil
	}
	changes := []string{p.key + ":" + p.value}
	switch p.key {
	case "paths":
		changes = strings.Split(p.value, ",")
	case "group":
		changes = []string{p.value}
	}
	known := map[string]bool{}
	m.Levels(func(n string, _ log.Level) { known[n] = true })
	levels := map[string]log.Level{}
	for _, c := range changes {
		name, lv, ok := strings.Cut(c, ":")
		if !ok || name == "" || lv == "" {
			return errors.New("empty logger name or empty logger level")
		}
		l, ok := log.ParseLevel(lv)
		if !ok {
			return errors.New("unknown logger level")
		}
		if !known[name] {
			return errors.New("unknown logger name")
		}
		levels[name] = l
	}
	for n, l := range levels {
		m.SetLevel(n, l)
	}
	return nil
}

// statsQuery reads the parameters of /stats; a non-nil reply is the error.
func statsQuery(q query) (*stats.Query, *reply) {
	out := &stats.Query{UsedOnly: q.has("usedonly"), TextReadouts: q.has("text_readouts"), Invert: q.has("invert_filter")}
	if f, ok := q.get("filter"); ok && f != "" {
		re, err := regexp.Compile(f)
		if err != nil {
			return nil, &reply{code: 400, ctyp: plainText, body: []byte("Invalid re2 regex: " + reError(err))}
		}
		out.Filter = re
	}
	fail := func(text string) (*stats.Query, *reply) { r := bad(400, text); return nil, &r }
	if v, ok := q.get("histogram_buckets"); ok && v != "" {
		modes := map[string]stats.BucketMode{"cumulative": stats.BucketsCumulative, "disjoint": stats.BucketsDisjoint, "detailed": stats.BucketsDetailed,
			"summary": stats.BucketsSummary, "none": stats.BucketsSummary}
		if out.Buckets, ok = modes[v]; !ok {
			return fail("usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n\n")
		}
	}
	if v, ok := q.get("type"); ok && v != "" && v != "All" {
		kinds := map[string]stats.Kind{"Counters": stats.Counter, "Gauges": stats.Gauge, "Histograms": stats.Histogram, "TextReadouts": stats.Text}
		k, known := kinds[v]
		if !known {
			return fail("invalid &type= param")
		}
		out.Kinds[k] = true
	}
	if v, ok := q.get("hidden"); ok && v != "" {
		modes := map[string]stats.HiddenMode{"include": stats.HiddenInclude, "only": stats.HiddenOnly, "exclude": stats.HiddenExclude}
		if out.Hidden, ok = modes[v]; !ok {
			return fail("usage: /stats?hidden=(include|only|exclude)\n\n")
		}
	}
	return out, nil
}

// reError words a regex error as RE2 does.
func reError(err error) string {
	var se *syntax.Error
	if errors.As(err, &se) {
		return strings.Replace(se.Code.String(), "missing closing", "missing", 1) + ": " + se.Expr
	}
	return err.Error()
}

func (s *Server) stats(_ *http.Request, q query) reply {
	sq, fail := statsQuery(q)
	if fail != nil {
		return *fail
	}
	format, _ := q.get("format")
	switch format {
	case "", "text":
		return streamed(plainText, s.cfg.Sources.Stats.Text, sq)
	case "json":
		return streamed(jsonType, s.cfg.Sources.Stats.JSON, sq)
	case "prometheus":
		return streamed(plainText, s.cfg.Sources.Stats.Prometheus, sq)
	case "html", "active-html":
		return streamed(htmlType, s.cfg.Sources.Stats.HTML, sq)
	}
	return bad(400, "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n")
}

// streamed is a list of stats, which may be long.
func streamed(ctyp string, render func(io.Writer, *stats.Query) error, q *stats.Query) reply {
	return reply{code: 200, ctyp: ctyp, stream: func(w io.Writer) error { return render(w, q) }}
}

func (s *Server) prometheus(_ *http.Request, q query) reply {
	sq, fail := statsQuery(q)
	if fail != nil {
		return *fail
	}
	return streamed(plainText, s.cfg.Sources.Stats.Prometheus, sq)
}

func (s *Server) memory(*http.Request, query) reply {
	if s.cfg.Sources.Memory != nil {
		return protoReply(s.cfg.Sources.Memory())
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return protoReply(&adminv3.Memory{Allocated: m.HeapAlloc, HeapSize: m.HeapSys, PageheapUnmapped: m.HeapReleased,
		PageheapFree: m.HeapIdle - m.HeapReleased, TotalPhysicalBytes: m.Sys - m.HeapReleased})
}

func (s *Server) runtime(*http.Request, query) reply {
	var layers []string
	var entries []RuntimeEntry
	if s.cfg.Sources.Runtime != nil {
		layers, entries = s.cfg.Sources.Runtime()
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Key < entries[j].Key })
	type value struct {
		FinalValue  string   `json:"final_value"`
		LayerValues []string `json:"layer_values"`
	}
	out := struct {
		Entries map[string]value `json:"entries"`
		Layers  []string         `json:"layers"`
	}{map[string]value{}, append([]string{}, layers...)}
	for _, e := range entries {
		out.Entries[e.Key] = value{e.Final, append([]string{}, e.Layers...)}
	}
	return plainJSON(out)
}

func plainJSON(v any) reply {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return bad(500, err.Error()+"\n")
	}
	return asJSON(append(b, '\n'))
}

// maxForm bounds the body of /runtime_modify.
const maxForm = 1 << 20

func (s *Server) runtimeModify(r *http.Request, q query) reply {
	if len(q) == 0 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		b, err := io.ReadAll(io.LimitReader(r.Body, maxForm))
		if err == nil {
			q = parseQuery(strings.ReplaceAll(string(b), "+", " "))
		}
	}
	if len(q) == 0 {
		return bad(400, "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form values\nuse an empty value to remove a previously added override\n")
	}
	if s.cfg.Sources.RuntimeModify == nil {
		return bad(503, "No admin layer specified")
	}
	m := map[string]string{}
	for _, p := range q {
		m[p.key] = p.value
	}
	if err := s.cfg.Sources.RuntimeModify(m); err != nil {
		return bad(503, err.Error())
	}
	return ok("OK\n")
}

func (s *Server) steering(*http.Request, query) reply {
	if s.cfg.Sources.Steering == nil {
		return plainJSON(struct{}{})
	}
	return plainJSON(s.cfg.Sources.Steering())
}

func (s *Server) xds(*http.Request, query) reply {
	out := struct {
		Rejected []Rejection `json:"rejected"`
		Warnings []Rejection `json:"warnings"`
	}{[]Rejection{}, []Rejection{}}
	if f := s.cfg.Sources.Rejected; f != nil {
		out.Rejected = append(out.Rejected, f()...)
	}
	if f := s.cfg.Sources.Warnings; f != nil {
		out.Warnings = append(out.Warnings, f()...)
	}
	return plainJSON(out)
}

// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Duration is a time.Duration written as "300ms" in case files.
type Duration time.Duration

// UnmarshalJSON reads a duration string.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("a duration is a string such as \"300ms\": %w", err)
	}
	v, err := time.ParseDuration(s)
	*d = Duration(v)
	return err
}

// Group is one case file: a bootstrap and the cases that run against one process started with it.
type Group struct {
	// Name is PART/NAME, from the file's place.
	Name string `json:"-"`
	// Path is the file the group was read from.
	Path string `json:"-"`

	// Listeners are expanded by Bootstrap; the key is the listener's name and the name of its port.
	Listeners map[string]*Listener `json:"listeners"`
	// Clusters are expanded by Bootstrap. A cluster bNN that a route names and nobody declares is a STATIC cluster of backend bNN.
	Clusters map[string]map[string]any `json:"clusters"`
	// Extra is merged over the top level of the generated bootstrap.
	Extra map[string]any `json:"bootstrap"`
	// Raw is a complete bootstrap; Listeners, Clusters and Extra are then only names for ports.
	Raw string `json:"raw"`
	// Args are appended to the command line of both proxies.
	Args []string `json:"args"`
	// Backends lists extra backend names that only Raw or Clusters mention; b1 to b4 always exist.
	Backends []string `json:"backends"`
	// BackendTLS makes backends speak TLS.
	BackendTLS map[string]*TLSEnd `json:"backend_tls"`
	// Files are written into ${dir} before the proxy starts.
	Files map[string]string `json:"files"`
	// Normalise is a list of extra [regexp, replacement] pairs for text that differs from run to run.
	Normalise [][2]string `json:"normalise"`
	// NormaliseBackend are such pairs for what backends show.
	NormaliseBackend [][2]string `json:"normalise_backend"`
	// IgnoreStats is a list of name prefixes (after normalisation) left out for every case, with the reason in a comment of the file.
	IgnoreStats []string `json:"ignore_stats"`

	// AnyEnd is as Case.AnyEnd, for all cases.
	AnyEnd bool `json:"any_end"`

	Cases []*Case `json:"cases"`
	// Validate are cases that only run `--mode validate` on a bootstrap of their own.
	Validate []*ValidateCase `json:"validate"`
}

// Listener is the short form of one listener with one HTTP connection manager or, with Chains, anything.
type Listener struct {
	// HCM is merged over the default connection manager.
	HCM map[string]any `json:"hcm"`
	// Routes is the route list of one virtual host "all" with domain *.
	Routes []any `json:"routes"`
	// VirtualHosts replaces that one virtual host.
	VirtualHosts []any `json:"virtual_hosts"`
	// RouteConfig is merged over the route configuration.
	RouteConfig map[string]any `json:"route_config"`
	// TLS makes the listener's one filter chain terminate TLS: the short form of a DownstreamTlsContext, see tlsContext.
	TLS map[string]any `json:"tls"`
	// Filters are HTTP filters put before the router.
	Filters []any `json:"http_filters"`
	// TCPProxy makes the listener a tcp_proxy: merged over its defaults.
	TCPProxy map[string]any `json:"tcp_proxy"`
	// Chains replaces the filter chains. A chain may have `tls`, as TLS, and `http` or `tcp_proxy`, the short forms of its network filter.
	Chains []any `json:"filter_chains"`
	// Log is the access-log format of the listener's file; empty means DefaultLog, "none" no log.
	Log string `json:"log"`
	// LogJSON is a json_format in place of Log.
	LogJSON map[string]any `json:"log_json"`
	// AccessLog is merged over the generated access_log entry.
	AccessLog map[string]any `json:"access_log"`
	// Fields are merged over the listener.
	Fields map[string]any `json:"fields"`
}

// Case is one scenario on a running proxy.
type Case struct {
	Name string `json:"name"`
	// Line lists the numbered lines of the behaviour notes that the case covers (documentation only).
	Line []int `json:"line"`
	// Step fields inline: a case of one step writes it directly.
	Step
	Steps []*Step `json:"steps"`
	// Conns overrides how named client connections are opened.
	Conns map[string]ConnOptions `json:"conns"`
	// Backend scripts replies per backend; the last entry repeats. Unscripted backends answer 200 with their own name as body.
	Backend map[string][]*Reply `json:"backend"`
	// BackendH2 says how backends that are spoken to in HTTP/2 behave below their replies.
	BackendH2 map[string]H2Options `json:"backend_h2"`
	// TCP scripts raw connections per backend; the last entry repeats. An empty list echoes.
	TCP map[string][]*Conversation `json:"tcp"`
	// Summary counts equal responses and requests per backend in place of listing them, for traffic whose order is random.
	Summary bool `json:"summary"`
	// Ignore names sections that are not compared ("stats", "log", "backend"), with the reason in a comment of the file.
	Ignore []string `json:"ignore"`
	// IgnoreStats is as Group.IgnoreStats, for one case.
	IgnoreStats []string `json:"ignore_stats"`
	// WireBytes shows statistics that count bytes of connections without their numbers, for TLS that passes through: no two handshakes are alike.
	WireBytes bool `json:"wire_bytes"`
	// AnyEnd shows FIN and RST alike as "ended", for connections the proxy closes with unread bytes in the kernel: which of the two the client
	// sees is a race.
	AnyEnd bool `json:"any_end"`
	// Settle is how long to watch the connections after the last step (default 25 ms).
	Settle Duration `json:"settle"`
	// Differs is how a row of docs/differences.md begins: ours answers otherwise on purpose, as Ours says.
	Differs string `json:"differs"`
	// Ours maps a section to the text expected of ours; "*" means any. Sections not named must equal Envoy's.
	Ours map[string]string `json:"ours"`
}

// ConnOptions says how a client connection is opened.
type ConnOptions struct {
	// To is the listener (default "main").
	To string `json:"to"`
	// IP is the destination address (default 127.0.0.1).
	IP string `json:"ip"`
	// From is the source address (default: the kernel's choice).
	From string `json:"from"`
	// FromPort is the placeholder name of a fixed source port, 0 for ephemeral.
	FromPort int `json:"from_port"`
	// TLS opens the connection with a handshake.
	TLS *TLSEnd `json:"tls"`
	// H2 makes the connection speak HTTP/2 from the first byte.
	H2 bool `json:"h2"`
	H2Options
}

// Step is one action of a case. Exactly one of Req, Send, Frames, Hello, Wait, Close, Admin, Write, Seen, ExpectClose, Await or Recv alone is set.
type Step struct {
	// Conn names the client connection (default "c"); it is opened by its first step.
	Conn string `json:"conn"`
	// Req is "METHOD TARGET [HOST]"; the head is completed with Host (default a.test, "-" none), Headers and, with Body, Content-Length.
	Req     string   `json:"req"`
	Headers []string `json:"headers"`
	Body    string   `json:"body"`
	// Trailers end the request on HTTP/2; Open leaves the stream open behind Req, Stream gives it a number (default: the next).
	Trailers []string `json:"trailers"`
	Open     bool     `json:"open"`
	Stream   uint32   `json:"stream"`
	// Frames are sent as they are on HTTP/2.
	Frames []*Frame `json:"frames"`
	// Until awaits that text in what the connection shows.
	Until string `json:"until"`
	// Seen is "BACKEND TEXT": it awaits that text in what the backend shows.
	Seen string `json:"seen"`
	// Write moves files with these contents over those in ${dir}.
	Write map[string]string `json:"write"`
	// Send is raw bytes.
	Send string `json:"send"`
	// Repeat sends Req or Send that many times, each with its own response awaited.
	Repeat int `json:"repeat"`
	// Hello sends a TLS ClientHello with this SNI and ALPN.
	Hello *Hello `json:"client_hello"`
	// Recv is how many final responses to await after the bytes (default 1; 0 none).
	Recv *int `json:"recv"`
	// Read is how many raw bytes to await in place of responses.
	Read int `json:"read"`
	// Timeout bounds the await (default 1.5 s); running into it is part of the answer, not an error.
	Timeout Duration `json:"timeout"`
	// Method overrides the request method that decides how a raw Send is answered (HEAD, CONNECT).
	Method string `json:"method"`
	// Wait sleeps.
	Wait Duration `json:"wait"`
	// Close ends the client side: "fin" (half-close), "close", "rst".
	Close string `json:"close"`
	// ExpectClose awaits the end of the connection for at most this long; the transcript says how it ended.
	ExpectClose Duration `json:"expect_close"`
	// Admin is "METHOD TARGET" on the admin port; Show selects what of the answer is compared.
	Admin string `json:"admin"`
	// Show is one of full (default), head, status, types, keys, lines.
	Show string `json:"show"`
	// Grep keeps only body lines that match this regular expression (with Show full).
	Grep string `json:"grep"`
	// Pick lists dotted JSON paths ("configs.*.@type") shown in place of the body.
	Pick []string `json:"pick"`
	// Sort sorts the shown body lines, for answers whose order is that of a hash map.
	Sort bool `json:"sort"`
	// Await repeats the admin request until the body contains this text, for at most Timeout.
	Await string `json:"await"`
}

// Hello describes a ClientHello.
type Hello struct {
	SNI  string   `json:"sni"`
	ALPN []string `json:"alpn"`
	// Split sends the record in pieces of that many bytes.
	Split int `json:"split"`
}

// Reply is one scripted HTTP answer of a backend.
type Reply struct {
	Status  int      `json:"status"`
	Headers []string `json:"headers"`
	Body    string   `json:"body"`
	// Send is raw bytes in place of the three above.
	Send string `json:"send"`
	// Early answers after the request head, before the body has been read.
	Early bool `json:"early"`
	// Delay is slept before the answer.
	Delay Duration `json:"delay"`
	// Then continues the answer on the same connection.
	Then []*Reply `json:"then"`
	// Hang never answers.
	Hang bool `json:"hang"`
	// Close ends the connection after the answer: "fin" or "rst".
	Close string `json:"close"`
	// Tunnel echoes raw bytes after the answer.
	Tunnel bool `json:"tunnel"`
	// The rest is for HTTP/2. Trailers end the stream; Frames (on the request's stream where they name none) follow; Reset ends it with that code;
	// Open leaves it open.
	Trailers []string `json:"trailers"`
	Frames   []*Frame `json:"frames"`
	Reset    string   `json:"reset"`
	Open     bool     `json:"open"`
}

// Conversation scripts one raw connection of a backend.
type Conversation struct {
	Do []*Action `json:"do"`
}

// Action is one step of a raw backend connection.
type Action struct {
	Read  int      `json:"read"`
	Send  string   `json:"send"`
	Fill  int      `json:"fill"`
	Delay Duration `json:"delay"`
	// Close is "fin" (half-close), "close" or "rst".
	Close string `json:"close"`
	// ReadAll reads until the proxy's FIN.
	ReadAll bool `json:"read_all"`
	Echo    bool `json:"echo"`
}

// ValidateCase runs `--mode validate` (or a start that must fail) and compares the exit code.
type ValidateCase struct {
	Name string   `json:"name"`
	Line []int    `json:"line"`
	Raw  string   `json:"raw"`
	Ext  string   `json:"ext"`
	Args []string `json:"args"`
	// NoConfig leaves -c out.
	NoConfig bool `json:"no_config"`
	// Contains lists texts that ours must print (a field path: Envoy's own texts are never comparable).
	Contains []string `json:"ours_contains"`
	// Stdout compares standard output too.
	Stdout  bool   `json:"stdout"`
	Differs string `json:"differs"`
	// OursExit is the exit code expected of ours when Differs is set.
	OursExit int `json:"ours_exit"`
}

// Load reads every group below dir (cases/PART/NAME.yaml), sorted by name.
func Load(dir string) ([]*Group, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.yaml"))
	if err != nil {
		return nil, err
	}
	sort.Strings(files)
	var groups []*Group
	for _, f := range files {
		g, err := loadFile(f)
		if err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	if len(groups) == 0 {
		return nil, fmt.Errorf("%s: no case files", dir)
	}
	return groups, nil
}

func loadFile(file string) (*Group, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	g := &Group{Path: file}
	if err := yaml.UnmarshalStrict(text, g); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	g.Name = path.Join(filepath.Base(filepath.Dir(file)), strings.TrimSuffix(filepath.Base(file), ".yaml"))
	seen := map[string]bool{}
	for _, n := range g.portNames() {
		if seen[n] {
			return nil, fmt.Errorf("%s: two ports are called %q", file, n)
		}
		seen[n] = true
	}
	seen = map[string]bool{}
	for _, c := range g.Cases {
		if c.Name == "" || seen[c.Name] || strings.ContainsAny(c.Name, " /") {
			return nil, fmt.Errorf("%s: case %q: the name is empty, repeated or has a space or slash", file, c.Name)
		}
		seen[c.Name] = true
		if len(c.Steps) == 0 {
			s := c.Step
			c.Steps = []*Step{&s}
		}
		for b := range c.TCP {
			if !slices.Contains(g.portNames(), b) {
				return nil, fmt.Errorf("%s: case %s: no backend %q", file, c.Name, b)
			}
		}
		if (c.Differs == "") != (len(c.Ours) == 0) {
			return nil, fmt.Errorf("%s: case %s: differs and ours go together", file, c.Name)
		}
	}
	for _, c := range g.Validate {
		if c.Name == "" || seen[c.Name] {
			return nil, fmt.Errorf("%s: validate case %q: the name is empty or repeated", file, c.Name)
		}
		seen[c.Name] = true
	}
	return g, nil
}

// CaseNames returns PART/NAME/CASE of every case in the group, in file order.
func (g *Group) CaseNames() []string {
	var names []string
	for _, c := range g.Cases {
		names = append(names, g.Name+"/"+c.Name)
	}
	for _, c := range g.Validate {
		names = append(names, g.Name+"/"+c.Name)
	}
	return names
}

// Match reports whether pattern selects the case: a glob over PART/NAME/CASE, or a prefix of it.
func Match(pattern, name string) bool {
	if pattern == "" || strings.HasPrefix(name, strings.TrimSuffix(pattern, "*")) {
		return true
	}
	ok, _ := path.Match(pattern, name)
	return ok
}

// SPDX-License-Identifier: Apache-2.0

// Package log is the application log: Envoy's levels and logger names, spdlog's line patterns, text or JSON, to standard error or a file.
// Never used on the request path: per-request facts belong to the access log.
package log

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Level orders messages as Envoy does.
type Level int32

// The levels.
const (
	Trace Level = iota
	Debug
	Info
	Warning
	Error
	Critical
	Off
)

var levelNames = [...]string{"trace", "debug", "info", "warning", "error", "critical", "off"}

// String is Envoy's name of the level.
func (l Level) String() string { return levelNames[min(max(l, 0), Off)] }

// ParseLevel reads a level name; "warn" is accepted for "warning".
func ParseLevel(s string) (Level, bool) {
	if s == "warn" {
		return Warning, true
	}
	i := slices.Index(levelNames[:], s)
	return Level(i), i >= 0
}

// names are Envoy's loggers: tools set levels by them. Ours come in addition.
var names = strings.Fields(`a2a admin ai_protocol_manager alternate_protocols_cache aws assert backtrace basic_auth cache_filter client config
	connection conn_handler compression credential_injector decompression dns dubbo envoy_bug ext_authz ext_proc rocketmq file filter
	forward_proxy geolocation grpc happy_eyeballs hc health_checker http http2 hystrix init io jwt json_rpc kafka key_value_store lua
	local_rate_limit main matcher mcp misc mongo multi_connection notification oauth2 quic quic_stream pool rate_limit_quota rbac rds redis
	router runtime stats secret sse tap testing thrift tracing upstream udp wasm websocket golang stats_sinks dynamic_modules ip_tagging
	steering`)

// DefaultFormat is Envoy's --log-format default.
const DefaultFormat = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v"

// Config of a Manager.
type Config struct {
	Level Level
	// Components is --component-log-level: "upstream:debug,connection:trace".
	Components string
	// Format is --log-format or application_log_config.log_format.text_format; empty is DefaultFormat.
	Format string
	// JSON is application_log_config.log_format.json_format as a plain tree of strings; it wins over Format.
	JSON map[string]any
	// Out receives lines; nil is standard error.
	Out io.Writer
}

// Manager owns all loggers. Safe for concurrent use.
type Manager struct {
	// Immutable
	format  *pattern
	loggers map[string]*Logger

	// Control, under mu
	mu  sync.Mutex
	out io.Writer

	// Atomic
	limits limiter
}

// Logger is one named logger. Safe for concurrent use.
type Logger struct {
	name  string
	mgr   *Manager
	level atomic.Int32
}

// New makes a manager; the error names an unknown component or level, or a format that cannot be used.
func New(cfg Config) (*Manager, error) {
	m := &Manager{out: cfg.Out, loggers: make(map[string]*Logger, len(names))}
	if m.out == nil {
		m.out = os.Stderr
	}
	var err error
	switch {
	case cfg.JSON != nil:
		m.format, err = compileJSON(cfg.JSON)
	case cfg.Format != "":
		m.format = compilePattern(cfg.Format)
	default:
		m.format = compilePattern(DefaultFormat)
	}
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		l := &Logger{name: n, mgr: m}
		l.level.Store(int32(cfg.Level))
		m.loggers[n] = l
	}
	if cfg.Components == "" {
		return m, nil
	}
	for _, c := range strings.Split(cfg.Components, ",") {
		name, lv, ok := strings.Cut(c, ":")
		if !ok {
			return nil, fmt.Errorf("error: component log level not correctly specified '%s'", c)
		}
		level, ok := ParseLevel(lv)
		if !ok {
			return nil, fmt.Errorf("error: invalid log level specified '%s'", lv)
		}
		if !m.SetLevel(name, level) {
			return nil, fmt.Errorf("error: invalid component specified '%s'", name)
		}
	}
	return m, nil
}

// OpenFile opens --log-path for appending.
func OpenFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("failed to open log-file '%s': %w", path, err)
	}
	return f, nil
}

// SetOutput replaces the destination (log file reopened).
func (m *Manager) SetOutput(w io.Writer) {
	m.mu.Lock()
	m.out = w
	m.mu.Unlock()
}

// Levels calls fn for every logger in Envoy's order.
func (m *Manager) Levels(fn func(name string, level Level)) {
	for _, n := range names {
		fn(n, m.loggers[n].Level())
	}
}

// SetLevel sets one logger; false when there is none of that name.
func (m *Manager) SetLevel(name string, level Level) bool {
	l := m.loggers[name]
	if l == nil {
		return false
	}
	l.level.Store(int32(level))
	return true
}

// SetAll sets every logger.
func (m *Manager) SetAll(level Level) {
	for _, l := range m.loggers {
		l.level.Store(int32(level))
	}
}

// Logger returns the logger of that name, "misc" when there is none.
func (m *Manager) Logger(name string) *Logger {
	if l := m.loggers[name]; l != nil {
		return l
	}
	return m.loggers["misc"]
}

// Log writes one message; level and component are names. It is the form that rooms take as a plain function.
func (m *Manager) Log(level, component, format string, args ...any) {
	lv, ok := ParseLevel(level)
	if !ok {
		lv = Info
	}
	if l := m.Logger(component); l.Enabled(lv) {
		m.write(l.name, lv, fmt.Sprintf(format, args...), 1)
	}
}

// Limited is Log at most once per interval for the same key; it tells how many were left out since. For messages that a peer can provoke.
func (m *Manager) Limited(key string, interval time.Duration, level, component, format string, args ...any) {
	ok, skipped := m.limits.allow(key, interval, time.Now())
	if !ok {
		return
	}
	if skipped > 0 {
		format += fmt.Sprintf(" (%d more in the meantime)", skipped)
	}
	m.Log(level, component, format, args...)
}

// Level is the logger's level.
func (l *Logger) Level() Level { return Level(l.level.Load()) }

// Enabled tells whether messages of the level are written.
func (l *Logger) Enabled(level Level) bool { return level >= l.Level() && level < Off }

// Logf writes one message.
func (l *Logger) Logf(level Level, format string, args ...any) {
	if l.Enabled(level) {
		l.mgr.write(l.name, level, fmt.Sprintf(format, args...), 1)
	}
}

func (m *Manager) write(name string, level Level, msg string, skip int) {
	line := m.format.append(nil, &event{time: time.Now(), level: level, name: name, msg: msg}, skip+2)
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _ = m.out.Write(append(line, '\n')) // a log that cannot be written has nowhere to complain
}

// Slog returns a standard logger that writes through the named logger.
func (m *Manager) Slog(name string) *slog.Logger { return slog.New(&handler{l: m.Logger(name)}) }

type handler struct {
	l      *Logger
	prefix string
	group  string
}

func fromSlog(l slog.Level) Level {
	switch {
	case l < slog.LevelDebug:
		return Trace
	case l < slog.LevelInfo:
		return Debug
	case l < slog.LevelWarn:
		return Info
	case l < slog.LevelError:
		return Warning
	}
	return Error
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return h.l.Enabled(fromSlog(l)) }

// Handle implements slog.Handler.
func (h *handler) Handle(_ context.Context, r slog.Record) error {
	msg := r.Message + h.prefix
	r.Attrs(func(a slog.Attr) bool {
		msg += " " + h.group + a.String()
		return true
	})
	h.l.mgr.write(h.l.name, fromSlog(r.Level), msg, 3)
	return nil
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	c := *h
	for _, a := range as {
		c.prefix += " " + h.group + a.String()
	}
	return &c
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.group += name + "."
	return &c
}

// limiter remembers when a key was last let through; at most maxKeys keys, then it starts over.
type limiter struct {
	mu   sync.Mutex
	seen map[string]*limitEntry
}

type limitEntry struct {
	last    time.Time
	skipped int
}

const maxKeys = 1024

func (l *limiter) allow(key string, interval time.Duration, now time.Time) (ok bool, skipped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil || len(l.seen) >= maxKeys {
		l.seen = map[string]*limitEntry{}
	}
	e := l.seen[key]
	if e == nil {
		l.seen[key] = &limitEntry{last: now}
		return true, 0
	}
	if now.Sub(e.last) < interval {
		e.skipped++
		return false, 0
	}
	skipped, e.skipped, e.last = e.skipped, 0, now
	return true, skipped
}

// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Mode is --mode.
type Mode string

// The modes.
const (
	Serve    Mode = "serve"
	Validate Mode = "validate"
	InitOnly Mode = "init_only"
)

// Options is the parsed command line. Every flag of Envoy 1.40 is accepted; those without meaning here are listed in Ignored when given.
type Options struct {
	ConfigPath, ConfigYAML                   string
	Mode                                     Mode
	Concurrency                              int
	ServiceNode, ServiceCluster, ServiceZone string
	LogLevel, ComponentLogLevel              string
	LogFormat, LogPath                       string
	DrainTime                                time.Duration
	DrainImmediate                           bool
	ParentShutdownTime                       time.Duration
	TerminationDrain                         time.Duration // ours: how long SIGTERM waits for requests in flight
	AdminAddressPath                         string
	LocalAddressV6                           bool
	FileFlush                                time.Duration
	FileFlushMin                             int // KiB
	BaseID, RestartEpoch                     uint32
	AllowUnknownStatic, RejectUnknownDynamic bool
	IgnoreUnknownDynamic                     bool
	SkipDeprecatedLogs                       bool
	FineGrainLogging                         bool
	BaseIDPath                               string
	StatsTags                                []string
	Version, HotRestartVersion               bool
	Steering                                 string // ours: force a rung of the ladder
	ExplicitWildcard                         bool   // ours
	Ignored                                  []string
	Given                                    map[string]string
}

// ErrHelp is returned when --help was given; the text has been printed.
var ErrHelp = errors.New("help requested")

// ignored are Envoy's flags that have nothing to act on here, with whether they take a value.
var ignored = []struct {
	name  string
	value bool
	why   string
}{
	{"use-dynamic-base-id", false, "there is no shared memory"},
	{"disable-hot-restart", false, "hot restart is not there yet"},
	{"skip-hot-restart-on-no-parent", false, "hot restart is not there yet"},
	{"skip-hot-restart-parent-stats", false, "hot restart is not there yet"},
	{"socket-path", true, "hot restart is not there yet"}, {"socket-mode", true, "hot restart is not there yet"},
	{"log-format-escaped", false, "log lines are always escaped"},
	{"cpuset-threads", false, "the CPU affinity mask is always honoured"}, {"disable-extensions", true, "there is nothing to disable"},
	{"enable-mutex-tracing", false, "workers have no locks"}, {"enable-core-dump", false, "use GOTRACEBACK=crash"},
	{"bootstrap-version", true, "only v3 exists"}, {"allow-unknown-fields", false, "see --allow-unknown-static-fields"},
	{"log-stacktrace-single-entry", false, "a stack trace is one write"},
	{"max-stats", true, "there is no limit"}, {"max-obj-name-len", true, "there is no limit"},
}

// Parse reads the command line. Errors are meant for stderr with exit code 1.
func Parse(args []string, out io.Writer) (*Options, error) {
	o := &Options{Given: map[string]string{}}
	fs := pflag.NewFlagSet("sidecar", pflag.ContinueOnError)
	fs.SetOutput(out)
	fs.SortFlags = false
	var mode, strategy, addrVersion string
	var drain, parent, flush, term int
	fs.StringVarP(&o.ConfigPath, "config-path", "c", "", "bootstrap file: .yaml, .json, .pb or .pb_text")
	fs.StringVar(&o.ConfigYAML, "config-yaml", "", "bootstrap as inline YAML or JSON, merged over -c")
	fs.StringVar(&mode, "mode", "serve", "serve, validate or init_only")
	fs.IntVar(&o.Concurrency, "concurrency", 0, "number of workers; default: CPUs available (cgroup quota included)")
	fs.StringVar(&o.ServiceNode, "service-node", "", "node id")
	fs.StringVar(&o.ServiceCluster, "service-cluster", "", "node cluster")
	fs.StringVar(&o.ServiceZone, "service-zone", "", "node zone")
	fs.StringVarP(&o.LogLevel, "log-level", "l", "info", "trace, debug, info, warning, error, critical or off")
	fs.StringVar(&o.ComponentLogLevel, "component-log-level", "", "component:level,…")
	fs.StringVar(&o.LogFormat, "log-format", "", "log line pattern")
	fs.StringVar(&o.LogPath, "log-path", "", "log file; default stderr")
	fs.IntVar(&drain, "drain-time-s", 600, "seconds that connections get to end when a listener goes")
	fs.StringVar(&strategy, "drain-strategy", "gradual", "gradual or immediate")
	fs.IntVar(&parent, "parent-shutdown-time-s", 900, "seconds until the parent exits in a hot restart")
	fs.IntVar(&term, "termination-drain-s", 25, "seconds that SIGTERM waits for requests in flight before it exits (not in Envoy)")
	fs.StringVar(&o.AdminAddressPath, "admin-address-path", "", "file to write the admin address to")
	fs.StringVar(&addrVersion, "local-address-ip-version", "v4", "v4 or v6")
	fs.IntVar(&flush, "file-flush-interval-msec", 10000, "milliseconds after which access log lines are written at the latest")
	fs.IntVar(&o.FileFlushMin, "file-flush-min-size-kb", 64, "KiB of access log lines that are written without waiting for the interval")
	fs.Uint32Var(&o.BaseID, "base-id", 0, "hot restart base id")
	fs.Uint32Var(&o.RestartEpoch, "restart-epoch", 0, "hot restart epoch")
	fs.BoolVar(&o.AllowUnknownStatic, "allow-unknown-static-fields", false, "accept unknown fields in the bootstrap")
	fs.BoolVar(&o.RejectUnknownDynamic, "reject-unknown-dynamic-fields", false, "refuse unknown fields in xDS resources")
	fs.BoolVar(&o.IgnoreUnknownDynamic, "ignore-unknown-dynamic-fields", false, "be silent about unknown fields in xDS resources")
	fs.BoolVar(&o.SkipDeprecatedLogs, "skip-deprecated-logs", false, "no log lines about deprecated fields")
	fs.BoolVar(&o.FineGrainLogging, "enable-fine-grain-logging", false, "accepted; loggers are per component")
	fs.StringArrayVar(&o.StatsTags, "stats-tag", nil, "name:value, a tag of every stat; may be repeated")
	fs.StringVar(&o.BaseIDPath, "base-id-path", "", "file to write the base id to")
	fs.BoolVar(&o.HotRestartVersion, "hot-restart-version", false, "print the hot restart version: disabled")
	fs.BoolVar(&o.Version, "version", false, "print the version")
	fs.StringVar(&o.Steering, "steering", "", "force a steering mode: ebpf, ebpf_select, incoming_cpu, classic_bpf or plain (not in Envoy)")
	fs.BoolVar(&o.ExplicitWildcard, "xds-explicit-wildcard", false, "subscribe with \"*\" instead of the legacy empty list (not in Envoy)")
	for _, f := range ignored {
		if f.value {
			fs.String(f.name, "", "accepted; "+f.why)
		} else {
			fs.Bool(f.name, false, "accepted; "+f.why)
		}
	}
	fs.Usage = func() {
		fmt.Fprintf(out, "USAGE:\n  sidecar -c bootstrap.yaml [flags]\n  sidecar demo [--once] [--load]\n\nFLAGS:\n%s", fs.FlagUsages())
	}
	if err := precheck(fs, args); err != nil {
		return nil, err
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			return nil, ErrHelp
		}
		return nil, fmt.Errorf("error: %w", err)
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("error: unexpected argument %q", fs.Arg(0))
	}
	fs.Visit(func(f *pflag.Flag) { o.Given[f.Name] = f.Value.String() })
	for _, f := range ignored {
		if _, ok := o.Given[f.name]; ok {
			o.Ignored = append(o.Ignored, "--"+f.name+": "+f.why)
		}
	}
	return o, o.finish(mode, strategy, addrVersion, drain, parent, flush, term)
}

// precheck refuses what Envoy's command line refuses and the flag library would take: --flag=value and repeated flags.
func precheck(fs *pflag.FlagSet, args []string) error {
	seen := map[string]bool{}
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return nil
		}
		name := strings.TrimLeft(a, "-")
		if !strings.HasPrefix(a, "-") || name == "" {
			continue
		}
		if strings.HasPrefix(a, "--") && strings.Contains(name, "=") {
			return fmt.Errorf("error: Couldn't find match for argument: %s (give the value as an argument of its own)", a)
		}
		f := fs.Lookup(name)
		if !strings.HasPrefix(a, "--") {
			f = fs.ShorthandLookup(name[:1])
		}
		if f == nil {
			continue // the flag library names it
		}
		if seen[f.Name] && f.Name != "stats-tag" {
			return fmt.Errorf("error: argument already set: %s", a)
		}
		seen[f.Name] = true
		if f.NoOptDefVal == "" {
			i++ // its value, whatever it looks like
		}
	}
	return nil
}

func (o *Options) finish(mode, strategy, addrVersion string, drain, parent, flush, term int) error {
	switch Mode(mode) {
	case Serve, Validate, InitOnly:
		o.Mode = Mode(mode)
	default:
		return fmt.Errorf("error: unknown mode '%s'", mode)
	}
	switch strategy {
	case "gradual":
	case "immediate":
		o.DrainImmediate = true
	default:
		return fmt.Errorf("error: unknown drain-strategy '%s'", strategy)
	}
	switch addrVersion {
	case "v4":
	case "v6":
		o.LocalAddressV6 = true
	default:
		return fmt.Errorf("error: unknown IP address version '%s'", addrVersion)
	}
	if o.FineGrainLogging && o.ComponentLogLevel != "" {
		return errors.New("error: --component-log-level will not work with --enable-fine-grain-logging")
	}
	o.DrainTime = time.Duration(max(drain, 0)) * time.Second
	o.ParentShutdownTime = time.Duration(max(parent, 0)) * time.Second
	o.FileFlushMin = min(max(o.FileFlushMin, 0), 1<<20)
	o.FileFlush = time.Duration(max(flush, 1)) * time.Millisecond
	o.TerminationDrain = time.Duration(max(term, 0)) * time.Second
	if o.Concurrency <= 0 {
		o.Concurrency = availableCPUs()
	}
	o.Concurrency = min(o.Concurrency, maxWorkers)
	return nil
}

// maxWorkers is what the steering map has room for.
const maxWorkers = 64

// availableCPUs is the affinity mask, cut to the cgroup's CPU quota: a worker more than there are CPUs only costs switches.
func availableCPUs() int {
	n := runtime.NumCPU()
	if q := cgroupQuota(); q > 0 && q < n {
		n = q
	}
	return max(n, 1)
}

func cgroupQuota() int {
	b, err := os.ReadFile("/sys/fs/cgroup/cpu.max")
	if err != nil {
		return 0
	}
	var quota, period int
	if _, err := fmt.Sscanf(strings.TrimSpace(string(b)), "%d %d", &quota, &period); err != nil || period == 0 {
		return 0
	}
	return max((quota+period-1)/period, 1)
}

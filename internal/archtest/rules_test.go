// SPDX-License-Identifier: Apache-2.0

package archtest

// order is every room from the ground up: a room may import those before it. The worker tower and the control tower share the floors below them and
// never import each other; they meet in internal/app.
var order = []string{
	// Floor 0, ground: values, the kernel, memory, time.
	"dataplane/sys", "dataplane/buf", "dataplane/timer", "dataplane/identity", "internal/telemetry/stats", "internal/telemetry/log",
	// Floor 1, machines without input or output.
	"dataplane/fault", "dataplane/httpmsg", "dataplane/match", "dataplane/http1", "dataplane/http2/hpack", "dataplane/http2", "dataplane/inspect", "dataplane/grpc", "dataplane/transport/tls", "dataplane/transport/tls/policy",
	"internal/telemetry/accesslog",
	// Floor 2, the immutable model.
	"dataplane/hostset", "dataplane/lb", "dataplane/route", "dataplane/filter", "dataplane/filters/http/grpcbridge", "dataplane/filters/http/grpcstats", "dataplane/filters/http/grpcweb", "dataplane/filters/http/ondemand", "dataplane/snapshot",
	// Floor 3, worker tower.
	"dataplane/loop", "dataplane/conn", "dataplane/mux", "dataplane/pool", "dataplane/upstream", "dataplane/tunnel", "dataplane/exchange", "dataplane/listener",
	"dataplane/worker", "dataplane/fleet",
	// Floor 3, control tower.
	"xds/registry", "xds/resource", "xds/bootstrap", "xds/ads", "xds/compile/matcher", "xds/compile/codec", "xds/compile/accesslog",
	"xds/compile/endpoint", "xds/compile/lbpolicy", "xds/compile/statsconfig", "xds/compile/secret", "xds/compile/transportsocket", "xds/compile/route", "xds/compile/httpfilter", "xds/compile/listener", "xds/compile/cluster",
	"xds/transport", "xds/controller",
	// Floor 4, services of the process.
	"ebpf", "internal/export", "internal/resolve", "internal/hotrestart", "internal/admin",
	// Floor 5, assembly.
	"internal/app", "internal/testctl", "internal/demo", "cmd/sidecar",
}

// basement is test and tool code: it may import everything, nothing above may import it.
var basement = []string{"internal/archtest", "internal/cmd/", "internal/sim", "internal/simsys", "internal/nettest", "internal/testx", "integration/"}

const (
	workerTower  = "dataplane/loop"
	controlTower = "xds/registry"
	services     = "ebpf"
)

// fences are packages that only some rooms may import. A room ending in '/' stands for everything below it.
var fences = []struct {
	pkg   string // prefix of an import path
	rooms []string
	why   string
}{
	{"golang.org/x/sys/unix", []string{"dataplane/sys", "ebpf", "internal/hotrestart", "internal/nettest", "internal/cmd/load"}, "one door to the kernel; the load tool is a loop of its own"},
	{"syscall", []string{"dataplane/sys", "internal/telemetry/log", "internal/app", "internal/export", "internal/admin", "cmd/sidecar", "internal/demo", "internal/cmd/", "integration/", "xds/transport", "xds/bootstrap"}, "errno and signal names on the control side"},
	{"github.com/cilium/ebpf", []string{"ebpf"}, "one user of BPF"},
	{"google.golang.org/grpc", []string{"xds/transport", "internal/export", "internal/testctl", "internal/demo"}, "one gRPC user in the control tower"},
	{"google.golang.org/protobuf", protoRooms, "the data plane knows plain values only"},
	{"github.com/envoyproxy/", protoRooms, "the data plane knows plain values only"},
	{"github.com/cncf/", protoRooms, "the data plane knows plain values only"},
	{"net/http", []string{"internal/admin", "xds/transport", "internal/export", "internal/demo", "internal/app", "internal/testctl", "internal/cmd/", "integration/"}, "traffic never goes through net/http"},
	{"crypto/tls", []string{"dataplane/transport/tls/", "xds/transport", "xds/compile/secret", "internal/demo", "internal/cmd/load", "integration/"}, "TLS has one place in each tower"},
	{"github.com/miekg/dns", []string{"internal/resolve"}, "one resolver"},
	{"os/exec", []string{"internal/demo", "internal/cmd/", "integration/"}, "the sidecar starts no processes"},
}

var protoRooms = []string{"xds/bootstrap", "xds/transport", "xds/resource", "xds/registry", "xds/compile/", "xds/controller", "internal/admin", "internal/app",
	"internal/export", "internal/testctl", "internal/demo", "internal/cmd/", "integration/"}

// noProto are rooms below a protobuf room that must stay free of it.
var noProto = []string{"xds/ads"}

// bannedImports may not appear in dataplane/**: a worker never locks, waits, logs or asks the runtime for time.
var bannedImports = []string{"sync", "sync/atomic", "log", "log/slog", "os", "context", "time", "math/rand", "math/rand/v2", "net", "os/signal"}

// dataplaneFiles are the files of dataplane/** that may use what is banned there, with the reason.
var dataplaneFiles = map[string]struct {
	uses []string // imports, or "go" and "chan" for the statements
	why  string
}{
	"dataplane/fleet/fleet.go":                 {[]string{"sync", "time", "go", "chan"}, "the control side of the workers: starts their threads and waits for them"},
	"dataplane/worker/worker.go":               {[]string{"sync/atomic"}, "the words that workers and the control side share"},
	"dataplane/worker/balance.go":              {[]string{"sync/atomic"}, "the load that workers tell each other"},
	"dataplane/worker/setup.go":                {[]string{"sync/atomic"}, "the adopted epoch and plan"},
	"dataplane/loop/mailbox.go":                {[]string{"sync/atomic"}, "the mailbox: the only way into a worker"},
	"dataplane/sys/semaphore.go":               {[]string{"sync/atomic"}, "what the threads that sign wait for"},
	"dataplane/fleet/offload.go":               {[]string{"sync", "time", "chan"}, "the threads that sign for handshakes"},
	"dataplane/transport/tls/failure.go":       {[]string{"net"}, "crypto/tls wraps alerts in net.OpError"},
	"dataplane/transport/tls/wire.go":          {[]string{"net", "time"}, "the face of a connection towards crypto/tls; it has no addresses and no deadlines"},
	"dataplane/loop/date.go":                   {[]string{"time"}, "formats a given time; reads no clock"},
	"dataplane/sys/linux.go":                   {[]string{"time"}, "the kernel's door reads the clock"},
	"dataplane/sys/resident.go":                {[]string{"os", "time"}, "control side; the type of CPU time, reads no clock"},
	"dataplane/hostset/hosts.go":               {[]string{"sync/atomic"}, "live numbers of a host, shared by workers"},
	"dataplane/filter/dynamic.go":              {[]string{"sync/atomic"}, "the factory of a discovered filter: swapped when its configuration changes"},
	"dataplane/hostset/build.go":               {[]string{"sync/atomic"}, "numbers hosts; several goroutines build"},
	"dataplane/snapshot/cluster.go":            {[]string{"sync/atomic"}, "live numbers against the breakers, shared by workers"},
	"dataplane/transport/tls/policy/clock.go":  {[]string{"time"}, "the type of wall time that crypto/tls and certificates have; reads no clock"},
	"dataplane/transport/tls/policy/server.go": {[]string{"sync/atomic"}, "the derived state of a context: swapped when a secret rotates"},
	"dataplane/transport/tls/policy/client.go": {[]string{"sync/atomic"}, "the derived state of a context: swapped when a secret rotates"},
	"dataplane/snapshot/intern.go":             {[]string{"sync/atomic"}, "the published view of cluster names"},
}

// globals are functions that dataplane/** may not call whatever the file may import.
var globals = map[string][]string{"time": {"Now", "Since", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}}

// globalCalls are the files that may call them.
var globalCalls = map[string]string{
	"dataplane/sys/linux.go":     "WallNanos is the one clock",
	"dataplane/fleet/fleet.go":   "control side: waits for workers",
	"dataplane/fleet/offload.go": "off the workers: waits for room in a mailbox",
}

// badNames are package names that say nothing.
var badNames = []string{"util", "utils", "common", "helper", "helpers", "types", "base", "misc"}

const (
	maxFile = 800
	maxFunc = 70
)

// longFuncs are functions over the limit without a comment on why: they wait for their owners. Nothing is added here.
var longFuncs = map[string]string{
	"integration/parity/cmd/parity/main.go run":     "command line of a tool",
	"internal/telemetry/accesslog/ops.go buildDefs": "a table",
	"xds/controller/listeners.go addListener":       "one order: compile, bind, then warm or activate; each step undoes the ones before",
}

// longWhy are the words by which a doc comment tells why its function is long.
var longWhy = []string{"long", "length"}

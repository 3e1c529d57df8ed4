// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sidecar/integration/proc"
)

// invoke runs the program to its end.
func invoke(t *testing.T, dir string, args ...string) (code int, out string) {
	t.Helper()
	cmd, o := proc.Command(t, args...)
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	if !end.Stop() {
		t.Fatalf("%v: no end\n%s", args, o)
	}
	return cmd.ProcessState.ExitCode(), o.String()
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	f := filepath.Join(dir, name)
	if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// istioArgs is what Istio's agent passes.
var istioArgs = strings.Fields("--drain-time-s 45 --drain-strategy immediate --local-address-ip-version v4 --file-flush-interval-msec 1000 " +
	"--disable-hot-restart --allow-unknown-static-fields -l warning --component-log-level misc:error --skip-deprecated-logs --concurrency 2")

// otherArgs is the rest of Envoy's flags.
var otherArgs = strings.Fields("--service-cluster c --service-node n1 --service-zone z --base-id 7 --use-dynamic-base-id --restart-epoch 0 " +
	"--parent-shutdown-time-s 10 --log-format %v --log-format-escaped --reject-unknown-dynamic-fields --ignore-unknown-dynamic-fields " +
	"--allow-unknown-fields --disable-extensions a,b --cpuset-threads --socket-path @s --socket-mode 600 --stats-tag a:b --stats-tag c:d " +
	"--enable-core-dump --enable-mutex-tracing --file-flush-min-size-kb 32 --skip-hot-restart-on-no-parent --skip-hot-restart-parent-stats " +
	"--log-stacktrace-single-entry --base-id-path base.id --admin-address-path admin.address --log-path log.txt")

func TestFlags_WhenGiven_ThenExitCodeAndTextAreRight(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "good.yaml", adminSection)
	for _, tc := range []struct {
		name string
		args []string
		code int
		text string
	}{
		{"version", []string{"--version"}, 0, "version: "},
		{"help", []string{"--help"}, 0, "--drain-time-s"},
		{"short help", []string{"-h"}, 0, "USAGE"},
		{"hot restart version", []string{"--hot-restart-version"}, 0, "disabled"},
		{"unknown", []string{"--nonsense"}, 1, "nonsense"},
		{"value with equals sign", []string{"--mode=validate"}, 1, "--mode=validate"},
		{"repeated", []string{"--mode", "validate", "--mode", "validate"}, 1, "--mode"},
		{"stray argument", []string{"-c", "good.yaml", "stray"}, 1, "stray"},
		{"mode", []string{"--mode", "nonsense"}, 1, "nonsense"},
		{"drain strategy", []string{"--drain-strategy", "x"}, 1, "unknown drain-strategy 'x'"},
		{"ip version", []string{"--local-address-ip-version", "v5"}, 1, "v5"},
		{"not a number", []string{"--concurrency", "many"}, 1, "concurrency"},
		{"steering", []string{"-c", "good.yaml", "--steering", "magic"}, 1, "magic"},
		{"log level", []string{"-c", "good.yaml", "-l", "loud"}, 1, "'loud'"},
		{"component", []string{"-c", "good.yaml", "--component-log-level", "nobody:debug"}, 1, "'nobody'"},
		{"component level", []string{"-c", "good.yaml", "--component-log-level", "http:loud"}, 1, "'loud'"},
		{"component and fine grain", []string{"-c", "good.yaml", "--enable-fine-grain-logging", "--component-log-level", "http:info"}, 1, "component-log-level"},
		{"stats tag", []string{"-c", "good.yaml", "--stats-tag", "nothing"}, 1, "'nothing'"},
		{"log path", []string{"-c", "good.yaml", "--log-path", "/nonexistent/log"}, 1, "/nonexistent/log"},
		{"value that looks like a flag", []string{"-c", "good.yaml", "--mode", "validate", "--log-format", "--mode"}, 0, "OK"},
		{"istio", append([]string{"-c", "good.yaml", "--mode", "validate"}, istioArgs...), 0, "configuration 'good.yaml' OK"},
		{"all others", append([]string{"-c", "good.yaml", "--mode", "validate"}, otherArgs...), 0, "configuration 'good.yaml' OK"},
		{"inline config", []string{"--mode", "validate", "--config-yaml", "{node: {id: x}}"}, 0, "OK"},
		{"inline config is bad", []string{"--mode", "validate", "-c", "good.yaml", "--config-yaml", "{nonsense: 1}"}, 1, "nonsense"},
		{"no config", nil, 1, "config"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out := invoke(t, dir, tc.args...)
			if code != tc.code || !strings.Contains(out, tc.text) {
				t.Errorf("exit code %d, want %d; output should hold %q:\n%s", code, tc.code, tc.text, out)
			}
		})
	}
}

func TestValidate_WhenManyThingsAreWrong_ThenEveryOneIsToldWithItsPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := cluster("b", "127.0.0.1:9")
	bad := static([]string{
		httpListener("one", "missing", "", ""),
		strings.Replace(httpListener("two", "b", "", ""), "prefix: /", `safe_regex: {regex: "("}`, 1),
		strings.Replace(tcpListener("three", "b", ""), "tcp_proxy.v3.TcpProxy", "nobody.v3.Nothing", 1),
		httpListener("four", "b", "", ""), httpListener("four", "b", "", ""),
	}, []string{b, strings.Replace(b, "127.0.0.1", "not-an-address", 1)})
	write(t, dir, "bad.yaml", bad)
	code, out := invoke(t, dir, "--mode", "validate", "-c", "bad.yaml")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"'bad.yaml'", "static_resources.listeners[0]", "static_resources.listeners[1]", "static_resources.listeners[2]", "nobody.v3.Nothing",
		"static_resources.listeners[4]", "static_resources.clusters[1]"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
}

func TestValidate_WhenPortsAreTaken_ThenNothingIsOpened(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dir := t.TempDir()
	write(t, dir, "a.yaml", taken(ln, true, true))
	code, out := invoke(t, dir, "--mode", "validate", "-c", "a.yaml", "--log-path", "log.txt", "--admin-address-path", "admin.txt")
	if code != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
	files, _ := os.ReadDir(dir)
	if len(files) != 1 {
		t.Errorf("files were made: %v", files)
	}
}

// taken is a bootstrap whose admin server or listener wants a port that somebody has.
func taken(ln net.Listener, admin, listener bool) string {
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	s := static([]string{httpListener("l", "b", "", "")}, []string{cluster("b", "127.0.0.1:9")})
	parts := strings.SplitN(s, "static_resources", 2)
	if admin {
		parts[0] = strings.Replace(parts[0], "port_value: 0", "port_value: "+port, 1)
	}
	if listener {
		parts[1] = strings.Replace(parts[1], "port_value: 0", "port_value: "+port, 1)
	}
	return parts[0] + "static_resources" + parts[1]
}

func TestStart_WhenSomethingIsWrong_ThenAClearErrorAndExitCodeOne(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() }) // after the parallel subtests
	ok := static([]string{httpListener("l", "b", "", "")}, []string{cluster("b", "127.0.0.1:9")})
	for _, tc := range []struct {
		name, config string
		want         []string
	}{
		{"not YAML", "a: [b", []string{"bootstrap.yaml"}},
		{"a list", "- a", []string{"bootstrap.yaml"}},
		{"wrong type", "node: {id: 5}", []string{"node.id"}},
		{"unknown field", "admin: {nonsense: 1}", []string{"admin", "nonsense"}},
		{"port taken", taken(ln, false, true), []string{"static_resources.listeners[0]", ln.Addr().String(), "in use"}},
		{"admin port taken", taken(ln, true, false), []string{"admin", ln.Addr().String(), "in use"}},
		{"unknown type URL", strings.Replace(ok, "router.v3.Router", "nobody.v3.Nothing", 1), []string{"static_resources.listeners[0].filter_chains[0].filters[0]", "nobody.v3.Nothing"}},
		{"duplicate listener", static([]string{httpListener("l", "b", "", ""), httpListener("l", "b", "", "")}, []string{cluster("b", "127.0.0.1:9")}),
			[]string{"static_resources.listeners[1]", "duplicate"}},
		{"duplicate cluster", static([]string{httpListener("l", "b", "", "")}, []string{cluster("b", "127.0.0.1:9"), cluster("b", "127.0.0.1:9")}),
			[]string{"static_resources.clusters[1]", "duplicate"}},
		{"impossible address", strings.Replace(ok, "127.0.0.1, port_value: 0}}, filter", "999.0.0.1, port_value: 0}}, filter", 1), []string{"static_resources.listeners[0]", "address"}},
		{"missing cluster", static([]string{httpListener("l", "nowhere", "", "")}, nil), []string{"static_resources.listeners[0]", "nowhere"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, "bootstrap.yaml", tc.config)
			from := time.Now()
			code, out := invoke(t, dir, "-c", "bootstrap.yaml")
			if code != 1 {
				t.Errorf("exit code %d", code)
			}
			if took := time.Since(from); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			for _, w := range tc.want {
				if !strings.Contains(out, w) {
					t.Errorf("%q is not in:\n%s", w, out)
				}
			}
		})
	}
	t.Run("missing file", func(t *testing.T) {
		code, out := invoke(t, t.TempDir(), "-c", "absent.yaml")
		if code != 1 || !strings.Contains(out, "absent.yaml") {
			t.Errorf("exit code %d:\n%s", code, out)
		}
	})
}

func TestStart_WhenItFails_ThenUnixSocketsAreNotLeftBehind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := strings.Replace(tcpListener("u", "b", ""), "socket_address: {address: 127.0.0.1, port_value: 0}", "pipe: {path: "+filepath.Join(dir, "s")+"}", 1)
	write(t, dir, "bootstrap.yaml", static([]string{good, httpListener("l", "nowhere", "", "")}, []string{cluster("b", "127.0.0.1:9")}))
	if code, out := invoke(t, dir, "-c", "bootstrap.yaml"); code != 1 {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "s")); err == nil {
		t.Error("the socket file is still there")
	}
}

func TestInitOnly_WhenConfigured_ThenExitsAfterInitialisation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "bootstrap.yaml", simple(newBackend(t, false)))
	from := time.Now()
	code, out := invoke(t, dir, "-c", "bootstrap.yaml", "--mode", "init_only", "--base-id-path", "base", "--base-id", "3")
	if code != 0 || time.Since(from) > 3*time.Second {
		t.Errorf("exit code %d after %v:\n%s", code, time.Since(from), out)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "base")); string(b) != "3" {
		t.Errorf("base id file holds %q", b)
	}
}

func TestSIGUSR1_WhenLogsWereMoved_ThenTheyAreOpenedAgain(t *testing.T) {
	t.Parallel()
	b := newBackend(t, false)
	dir := t.TempDir()
	access, app := filepath.Join(dir, "access.log"), filepath.Join(dir, "app.log")
	log := `access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: ` + access + `}}],`
	p := start(t, static([]string{httpListener("l", "b", "", log)}, []string{cluster("b", b.addr)}), "--log-path", app, "--file-flush-interval-msec", "50")
	lines := func(f string) int { s, _ := os.ReadFile(f); return strings.Count(string(s), "\n") }
	p.dial("l").want("hello", false)
	p.Until("the first line", func() bool { return lines(access) == 1 })
	for _, f := range []string{access, app} {
		if err := os.Rename(f, f+".1"); err != nil {
			t.Fatal(err)
		}
	}
	p.Signal(syscall.SIGHUP) // ignored
	p.Signal(syscall.SIGUSR1)
	p.Until("the new files", func() bool { return lines(access+".1") == 1 && lines(access) >= 0 && exists(access) && exists(app) })
	p.dial("l").want("hello", false)
	p.Until("a line in the new file", func() bool { return lines(access) == 1 })
	p.Signal(syscall.SIGTERM)
	p.Exits(0, 0, 2*time.Second)
	if lines(app) == 0 {
		t.Error("the application log stayed in the old file")
	}
}

// TestAccessLog_WhenConfigurationsChange_ThenFilesNobodyLogsToAreClosed: each update logs elsewhere; a request that is held keeps its file open.
func TestAccessLog_WhenConfigurationsChange_ThenFilesNobodyLogsToAreClosed(t *testing.T) {
	t.Parallel()
	b := newBackend(t, true)
	dir := t.TempDir()
	listener := func(i int) string {
		return httpListener("l", "b", "", fmt.Sprintf(`access_log: [{name: f, typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: %s/%d}}],`, dir, i))
	}
	d := startDynamic(t, []string{cluster("b", b.addr)}, []string{listener(0)}, "--drain-time-s", "60", "--concurrency", "2")
	open := func() (list []string) {
		fds := fmt.Sprintf("/proc/%d/fd/", d.Cmd.Process.Pid)
		entries, _ := os.ReadDir(fds)
		for _, e := range entries {
			if to, err := os.Readlink(fds + e.Name()); err == nil && strings.HasPrefix(to, dir+"/") {
				list = append(list, filepath.Base(to))
			}
		}
		return list
	}
	held := d.dial("l")
	held.send(request)
	<-b.seen
	most, i := 0, 1
	for ; i <= 40; i++ {
		d.replace(listener(i))
		most = max(most, len(open()))
	}
	// Collections come with updates; the last ones may wait for more of them.
	d.Until("only the files in use are open", func() bool {
		d.replace(listener(i))
		i++
		return len(open()) <= 10
	})
	if most > 35 {
		t.Errorf("%d files were open at once", most)
	}
	b.hold <- struct{}{}
	held.answered("hello", true)
	d.Signal(syscall.SIGTERM)
	d.Exits(0, 0, 5*time.Second)
	if s, _ := os.ReadFile(filepath.Join(dir, "0")); strings.Count(string(s), "\n") != 1 {
		t.Errorf("the log of the held request: %q", s)
	}
}

func exists(f string) bool { _, err := os.Stat(f); return err == nil }

func TestIstioBootstrap_WhenLoaded_ThenItStartsAndTellsWhatWaits(t *testing.T) {
	t.Parallel()
	in, err := os.ReadFile("../../xds/bootstrap/testdata/istio.json")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := string(in)
	for _, r := range [][2]string{{"15000", "28490"}, {"15021", "28491"}, {"15090", "28492"}} {
		text = strings.ReplaceAll(text, r[0], r[1])
	}
	file := write(t, dir, "istio.json", text)
	cmd, out := proc.Command(t, append([]string{"-c", file}, istioArgs...)...)
	p := &proxy{proc.Launch(t, cmd, out)}
	p.Admin = "127.0.0.1:28490"
	p.Until("the admin server answers", func() bool { return p.Get("/server_info") != "" })
	if got := p.Get("/ready"); got != "PRE_INITIALIZING\n" { // there is no control plane
		t.Errorf("/ready %q", got)
	}
	for path, wants := range map[string][]string{
		"/xds":            {"0.0.0.0_28492", "compressor", "static_resources.listeners[0]"},
		"/config_dump":    {"sidecar~"},
		"/stats?usedonly": {"cluster_manager.", "server.live"},
		"/runtime":        {"re2.max_program_size.error_level"},
	} {
		got := p.get(path)
		for _, w := range wants {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in %.2000s", path, w, got)
			}
		}
	}
	if strings.Contains(p.get("/stats"), "\ncluster.agent") {
		t.Error("a stat outside the inclusion list is shown")
	}
	p.Signal(syscall.SIGTERM)
	p.Exits(0, 0, time.Second)
	if !strings.Contains(out.String(), "waits for a later") {
		t.Errorf("no warning about what waits:\n%s", out)
	}
}

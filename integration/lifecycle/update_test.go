// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dynamic is a proxy whose listeners come from a file that is watched.
type dynamic struct {
	*proxy
	file    string
	version int
}

func startDynamic(t *testing.T, clusters, listeners []string, args ...string) *dynamic {
	t.Helper()
	d := &dynamic{file: filepath.Join(t.TempDir(), "lds.yaml")}
	d.write(t, listeners)
	d.proxy = start(t, adminSection+"node: {id: node, cluster: c}\ndynamic_resources: {lds_config: {resource_api_version: V3, path_config_source: {path: "+d.file+"}}}\n"+
		"static_resources: {clusters: ["+strings.Join(clusters, ",\n")+"]}\n", args...)
	return d
}

func (d *dynamic) write(t *testing.T, listeners []string) {
	t.Helper()
	d.version++
	text := fmt.Sprintf("version_info: '%d'\nresources: [%s]\n", d.version, strings.Join(listeners, ",\n"))
	if err := os.WriteFile(d.file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(d.file+".new", d.file); err != nil {
		t.Fatal(err)
	}
}

// replace puts another set of listeners in and waits until it was taken.
func (d *dynamic) replace(listeners ...string) {
	d.T.Helper()
	d.write(d.T, listeners)
	want := fmt.Sprintf(`listener_manager.lds.version_text: "%d"`, d.version)
	d.Until("version "+want, func() bool { return strings.Contains(d.Get("/stats?filter=lds.version_text"), want) })
	time.Sleep(50 * time.Millisecond) // publication and the workers' next turn
}

func TestListenerRemoval_WhenDrainTimeEnds_ThenIdleOnesCloseAndRequestsFinish(t *testing.T) {
	t.Parallel()
	fast, slow, echo := newBackend(t, false), newBackend(t, true), newEcho(t, false)
	clusters := []string{cluster("fast", fast.addr), cluster("slow", slow.addr), cluster("echo", echo)}
	keep := httpListener("keep", "fast", "", "")
	d := startDynamic(t, clusters, []string{keep, httpListener("fast", "fast", "", ""), httpListener("slow", "slow", "", ""), tcpListener("echo", "echo", "")},
		"--drain-time-s", "2", "--drain-strategy", "immediate")
	idle, told, busy, tunnel, other := d.dial("fast"), d.dial("fast"), d.dial("slow"), d.dial("echo"), d.dial("keep")
	idle.want("hello", false)
	told.want("hello", false)
	busy.send(request)
	<-slow.seen
	tunnel.send("x")
	if b, err := tunnel.r.ReadByte(); b != 'x' || err != nil {
		t.Fatal(b, err)
	}
	from := time.Now()
	d.replace(keep)
	for _, l := range []string{"fast", "slow", "echo"} {
		if !d.refused(l) {
			t.Errorf("%s still accepts", l)
		}
	}
	told.want("hello", true)
	tunnel.send("y")
	if b, err := tunnel.r.ReadByte(); b != 'y' || err != nil {
		t.Fatal(b, err)
	}
	idle.eof()
	if took := time.Since(from); took < 1500*time.Millisecond {
		t.Errorf("the idle connection closed after %v", took)
	}
	if _, err := tunnel.r.ReadByte(); err == nil || time.Since(from) > 6*time.Second {
		t.Errorf("the tunnel ended with %v after %v", err, time.Since(from))
	}
	time.Sleep(300 * time.Millisecond)
	slow.hold <- struct{}{}
	busy.answered("hello", true)
	busy.eof()
	other.want("hello", false)
}

func TestChainUpdate_WhenOnlyOneListenerChanges_ThenOnlyItsConnectionsClose(t *testing.T) {
	t.Parallel()
	b := newBackend(t, false)
	d := startDynamic(t, []string{cluster("b", b.addr)}, []string{httpListener("changed", "b", "", ""), httpListener("same", "b", "", "")}, "--drain-time-s", "1")
	changed, idle, same := d.dial("changed"), d.dial("changed"), d.dial("same")
	changed.want("hello", false)
	idle.want("hello", false)
	same.want("hello", false)
	d.replace(httpListener("changed", "b", "", "server_name: other,"), httpListener("same", "b", "", ""))
	changed.want("hello", true)
	idle.eof()
	same.want("hello", false)
	d.dial("changed").want("hello", false)
	if got := d.get("/stats?filter=listener_in_place_updated"); got != "listener_manager.listener_in_place_updated: 1\n" {
		t.Error(got)
	}
}

func TestStoppedDirection_WhenAListenerComesLater_ThenItIsTakenAndNeverOpens(t *testing.T) {
	t.Parallel()
	b := newBackend(t, false)
	d := startDynamic(t, []string{cluster("b", b.addr)}, []string{httpListener("a", "b", "", "")}, "--drain-time-s", "1")
	d.Post("/drain_listeners")
	late := strings.Replace(httpListener("late", "b", "", ""), "port_value: 0", "port_value: 28499", 1)
	d.replace(httpListener("a", "b", "", ""), late)
	d.Refresh()
	if d.Addr["late"] != "127.0.0.1:28499" {
		t.Fatalf("/listeners: %v", d.Addr)
	}
	if !d.refused("late") {
		t.Error("a listener opened after drain_listeners")
	}
	if got := d.get("/stats?filter=lds.update_rejected"); got != "listener_manager.lds.update_rejected: 0\n" {
		t.Error(got)
	}
}

func TestSIGTERM_WhenARemovedListenerStillDrains_ThenItsConnectionsCountToo(t *testing.T) {
	t.Parallel()
	slow := newBackend(t, true)
	d := startDynamic(t, []string{cluster("b", slow.addr)}, []string{httpListener("gone", "b", "", "")})
	c := d.dial("gone")
	c.send(request)
	<-slow.seen
	d.replace()
	d.Post("/quitquitquit")
	time.Sleep(800 * time.Millisecond)
	if d.Ended() {
		t.Fatal("ended with a request of a removed listener in flight")
	}
	slow.hold <- struct{}{}
	c.answered("hello", true)
	if _, err := c.r.ReadByte(); err != io.EOF {
		t.Error(err)
	}
	c.c.Close()
	d.Exits(0, 0, 2*time.Second)
}

func TestListenerReplacement_WhenMoreThanChainsChange_ThenOldConnectionsDrain(t *testing.T) {
	t.Parallel()
	b := newBackend(t, false)
	d := startDynamic(t, []string{cluster("b", b.addr)}, []string{httpListener("l", "b", "", "")}, "--drain-time-s", "1", "--drain-strategy", "immediate")
	told, idle := d.dial("l"), d.dial("l")
	told.want("hello", false)
	idle.want("hello", false)
	d.replace(httpListener("l", "b", "traffic_direction: INBOUND,", ""))
	told.want("hello", true)
	idle.eof()
	d.Refresh()
	d.dial("l").want("hello", false)
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// peer is a proxy that can be measured.
type peer struct {
	name, bin, version string
	http, tcp          bool
	// relay moves the bytes of HTTP/1 scenarios without a look at them: what they cost the kernel whoever proxies.
	relay bool
	// routes names the kinds of the routes-* scenarios it has a feature for.
	routes map[string]bool
	// command writes the peer's configuration and returns its command line; an empty first element is the load tool.
	command func(p *peer, c *config) ([]string, error)
}

var allRoutes = map[string]bool{"prefix": true, "exact": true, "mixed": true, "regex": true}

// findPeers returns what is installed; the rest is named on standard error. list keeps sidecar without building it.
func findPeers(ours, envoy, dir string, list bool) []*peer {
	var peers []*peer
	add := func(p *peer, err error) {
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s left out: %v\n", p.name, err)
			return
		}
		peers = append(peers, p)
	}
	p := &peer{name: "sidecar", http: true, tcp: true, routes: allRoutes, command: envoyCommand}
	add(p, p.findOurs(ours, dir, list))
	relay := &peer{name: "relay", bin: p.bin, version: "this tree, as TCP proxy", relay: true, command: bareRelayCommand}
	p = &peer{name: "nginx", http: true, routes: allRoutes, command: nginxCommand}
	add(p, p.find("nginx", "-v"))
	p.tcp = p.bin != "" && nginxStream(p.bin) != "none"
	p = &peer{name: "haproxy", http: true, tcp: true, routes: allRoutes, command: haproxyCommand}
	add(p, p.find("haproxy", "-v"))
	p = &peer{name: "envoy", http: true, tcp: true, routes: allRoutes, command: envoyCommand}
	add(p, p.findEnvoy(envoy))
	if relay.bin != "" {
		add(relay, nil)
	}
	add(&peer{name: "iocopy", version: "Go io.Copy between two TCP sockets", tcp: true, command: relayCommand}, nil)
	return peers
}

func (p *peer) find(bin string, flag string) error {
	path, err := exec.LookPath(bin)
	if err != nil {
		if path, err = exec.LookPath(filepath.Join("/usr/sbin", bin)); err != nil {
			return fmt.Errorf("%s is not installed", bin)
		}
	}
	p.bin = path
	out, err := exec.Command(path, flag).CombinedOutput()
	p.version = strings.TrimSpace(strings.SplitN(strings.TrimSpace(string(out)), "\n", 2)[0])
	return err
}

func (p *peer) findOurs(bin, dir string, list bool) error {
	if bin == "" && !list {
		bin = filepath.Join(dir, "sidecar")
		if out, err := exec.Command("go", "build", "-o", bin, "sidecar/cmd/sidecar").CombinedOutput(); err != nil {
			return fmt.Errorf("go build ./cmd/sidecar: %v %s", err, out)
		}
	}
	abs, err := filepath.Abs(bin)
	p.bin, p.version = abs, "this tree"
	if err != nil || list {
		return err
	}
	_, err = os.Stat(abs)
	return err
}

// findEnvoy looks through the Python wheel's wrapper script at the real binary.
func (p *peer) findEnvoy(bin string) error {
	if bin == "" {
		bin = os.Getenv("ENVOY_BIN")
	}
	if bin == "" {
		script := "import envoy,os;print(os.path.join(os.path.dirname(envoy.__file__),'_bin','envoy'))"
		if out, err := exec.Command("python3", "-c", script).Output(); err == nil {
			bin = strings.TrimSpace(string(out))
		} else {
			bin = "envoy"
		}
	}
	return p.find(bin, "--version")
}

// nginxStream tells how nginx has its stream module: "built in", the file of the dynamic module, or "none".
func nginxStream(bin string) string {
	out, err := exec.Command(bin, "-V").CombinedOutput()
	if err != nil {
		return "none"
	}
	args := string(out)
	if strings.Contains(args+" ", "--with-stream ") {
		return "built in"
	}
	for _, f := range strings.Fields(args) {
		if dir, ok := strings.CutPrefix(f, "--modules-path="); ok {
			file := filepath.Join(dir, "ngx_stream_module.so")
			if _, err := os.Stat(file); err == nil {
				return file
			}
		}
	}
	return "none"
}

func envoyCommand(p *peer, c *config) ([]string, error) {
	file := filepath.Join(c.dir, "bootstrap.yaml")
	return []string{p.bin, "-c", file, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"}, os.WriteFile(file, []byte(c.envoy()), 0o644)
}

func nginxCommand(p *peer, c *config) ([]string, error) {
	file := filepath.Join(c.dir, "nginx.conf")
	stream := nginxStream(p.bin)
	return []string{p.bin, "-p", c.dir, "-c", file, "-e", filepath.Join(c.dir, "nginx.err")}, os.WriteFile(file, []byte(c.nginx(stream)), 0o644)
}

func haproxyCommand(p *peer, c *config) ([]string, error) {
	file := filepath.Join(c.dir, "haproxy.cfg")
	text, maps := c.haproxy()
	for name, m := range maps {
		if err := os.WriteFile(filepath.Join(c.dir, name), []byte(m), 0o644); err != nil {
			return nil, err
		}
	}
	return []string{p.bin, "-db", "-f", file}, os.WriteFile(file, []byte(text), 0o644)
}

func bareRelayCommand(p *peer, c *config) ([]string, error) {
	d := *c
	d.tcp, d.log = true, false
	return envoyCommand(p, &d)
}

func relayCommand(_ *peer, c *config) ([]string, error) {
	return []string{"", "relay", "-addr", "127.0.0.1:" + strconv.Itoa(c.port), "-to", c.upstreamAddr()}, nil
}

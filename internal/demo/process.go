// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// process is a running sidecar: this same program, as a process of its own.
type process struct {
	cmd    *exec.Cmd
	log    *os.File
	exited chan struct{}
}

// startSidecar writes the bootstrap file and starts a sidecar with it; it returns when the sidecar is ready. name names its files in dir.
func startSidecar(dir, name, bootstrap string, admin int) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, name+".yaml")
	if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
		return nil, err
	}
	p := &process{exited: make(chan struct{})}
	if p.log, err = os.Create(filepath.Join(dir, name+".log")); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(exe, "-c", file, "--concurrency", "2", "-l", "info", "--drain-time-s", "5")
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true} // Ctrl-C reaches only us; we drain it
	if err := p.cmd.Start(); err != nil {
		_ = p.log.Close()
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	end := time.Now().Add(15 * time.Second)
	for time.Now().Before(end) {
		select {
		case <-p.exited:
			return p, fmt.Errorf("%s ended: %s", name, p.tail())
		default:
		}
		r, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ready", admin))
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == 200 {
				return p, nil
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return p, fmt.Errorf("%s did not become ready: %s", name, p.tail())
}

// tail is the end of the log.
func (p *process) tail() string {
	b, _ := os.ReadFile(p.log.Name())
	if len(b) > 4096 {
		b = b[len(b)-4096:]
	}
	return "its log:\n" + string(b)
}

// stop drains and ends the sidecar; it is fine with one that never started.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	_ = p.log.Close()
}

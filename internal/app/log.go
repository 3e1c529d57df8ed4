// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"io"
	"os"
	"sync"

	"fmt"

	"sidecar/internal/telemetry/log"
)

// openLog makes the application log of the flags and of application_log_config.
func (a *App) openLog(stderr io.Writer) error {
	level, ok := log.ParseLevel(a.opt.LogLevel)
	if !ok {
		return fmt.Errorf("error: invalid log level specified '%s'", a.opt.LogLevel)
	}
	cfg := log.Config{Level: level, Components: a.opt.ComponentLogLevel, Format: a.opt.LogFormat, Out: stderr}
	if f := a.boot.Proto.GetApplicationLogConfig().GetLogFormat(); f != nil {
		if a.opt.Given["log-format"] != "" {
			return errors.New("application_log_config.log_format: --log-format is given too: only one of them can be")
		}
		cfg.Format = f.GetTextFormat()
		if j := f.GetJsonFormat(); j != nil {
			cfg.JSON = j.AsMap()
		}
	}
	if a.opt.LogPath != "" && a.opt.Mode != Validate {
		f := &logFile{path: a.opt.LogPath}
		if err := f.reopen(); err != nil {
			return err
		}
		a.logFile, cfg.Out = f, f
	}
	m, err := log.New(cfg)
	if err != nil {
		return err
	}
	a.log = m
	return nil
}

// logFile is --log-path: a file that can be opened again after a rotation. Safe for concurrent use.
type logFile struct {
	path string

	mu sync.Mutex
	f  *os.File
}

// Write appends p.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Write(p)
}

// reopen opens the path and lets go of the old file; on failure the old one stays.
func (l *logFile) reopen() error {
	f, err := log.OpenFile(l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	old := l.f
	l.f = f
	l.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	return nil
}

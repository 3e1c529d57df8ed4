// SPDX-License-Identifier: Apache-2.0

package app

import (
	"fmt"
	"io"
	"sync"
	"time"

	"sidecar/xds/bootstrap"
)

type plainLog struct {
	mu  sync.Mutex
	out io.Writer
	min int
}

var levels = map[string]int{"trace": 0, "debug": 1, "info": 2, "warning": 3, "warn": 3, "error": 4, "critical": 5, "off": 6}

func newLogger(opt *Options, _ *bootstrap.Config, stderr io.Writer) (logger, error) {
	l, ok := levels[opt.LogLevel]
	if !ok {
		return nil, fmt.Errorf("error: invalid log level specified '%s'", opt.LogLevel)
	}
	return &plainLog{out: stderr, min: l}, nil
}

func (p *plainLog) Log(level, component, format string, args ...any) {
	if levels[level] < p.min {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "[%s][%s][%s] %s\n", time.Now().UTC().Format("2006-01-02 15:04:05.000"), level, component, fmt.Sprintf(format, args...))
}

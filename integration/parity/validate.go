// SPDX-License-Identifier: Apache-2.0

package parity

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// validate runs the proxy once with --mode validate (unless Args say otherwise) and records the exit code, and standard output when the case
// asks for it. Error texts are not comparable between the two; the section "output" is kept for Contains and never recorded.
func (run *groupRun) validate(c *ValidateCase) *Result {
	res := &Result{Case: c.Name}
	ext := c.Ext
	if ext == "" {
		ext = "yaml"
	}
	file := filepath.Join(run.v.dir, "validate."+ext)
	text, err := run.v.expand(c.Raw)
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o644)
	}
	if err != nil {
		res.add("error", err.Error()+"\n")
		return res
	}
	args := []string{"-c", file}
	if c.NoConfig {
		args = nil
	}
	if c.Args == nil {
		args = append(args, "--mode", "validate")
	}
	for _, a := range c.Args {
		if a, err = run.v.expand(a); err != nil {
			res.add("error", err.Error()+"\n")
			return res
		}
		args = append(args, a)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, run.r.Bin, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Dir = run.v.dir
	cmd.Run()
	if ctx.Err() != nil {
		res.add("error", "no exit within 15 s\n")
		return res
	}
	res.add("exit", fmt.Sprintf("%d\n", cmd.ProcessState.ExitCode()))
	if c.Stdout {
		res.add("stdout", run.norm.text(stdout.String()))
	}
	res.output = stdout.String() + stderr.String()
	return res
}

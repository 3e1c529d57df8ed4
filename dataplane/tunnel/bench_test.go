// SPDX-License-Identifier: Apache-2.0

package tunnel

import (
	"io"
	"net"
	"sort"
	"testing"
)

// BenchmarkBulk reports what the worker's thread pays per gigabyte, copying and splicing in interleaved rounds; only the ratio means anything on a
// shared machine.
func BenchmarkBulk(b *testing.B) {
	const size = 128 << 20
	r := newRig(b, nil)
	r.cluster("c", 1<<20, unlimited, r.backend(func(c *net.TCPConn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 256<<10))
	}))
	r.start()
	chunk := make([]byte, 256<<10)
	round := func(splice bool) float64 {
		r.call(func() { r.env.Splice = splice })
		c := r.dial()
		before := r.cpu.Load()
		for n := 0; n < size; n += len(chunk) {
			if _, err := c.Write(chunk); err != nil {
				b.Fatal(err)
			}
		}
		_ = c.CloseWrite()
		readAll(b, c)
		c.Close()
		r.call(func() {})
		r.call(func() {})
		return float64(r.cpu.Load()-before) / 1e9 / (float64(size) / (1 << 30))
	}
	var copied, spliced, ratios []float64
	for b.Loop() {
		x, y := round(false), round(true)
		copied, spliced, ratios = append(copied, x), append(spliced, y), append(ratios, y/x)
	}
	median := func(v []float64) float64 { sort.Float64s(v); return v[len(v)/2] }
	b.ReportMetric(median(copied), "copy-s/GB")
	b.ReportMetric(median(spliced), "splice-s/GB")
	b.ReportMetric(median(ratios), "splice/copy")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPingPong shows that small messages do not pay for the bulk path.
func BenchmarkPingPong(b *testing.B) {
	for _, splice := range []bool{false, true} {
		b.Run(map[bool]string{false: "copy", true: "splice"}[splice], func(b *testing.B) {
			r := newRig(b, nil)
			r.env.Splice = splice
			r.cluster("c", 1<<20, unlimited, r.backend(echo))
			r.start()
			c := r.dial()
			m := make([]byte, 64)
			before := r.cpu.Load()
			n := 0
			for b.Loop() {
				if _, err := c.Write(m); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, m); err != nil {
					b.Fatal(err)
				}
				n++
			}
			r.call(func() {})
			b.ReportMetric(float64(r.cpu.Load()-before)/float64(n), "worker-ns/msg")
		})
	}
}

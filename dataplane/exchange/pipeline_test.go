// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"strings"
	"testing"

	"sidecar/dataplane/route"
	"sidecar/dataplane/sys"
)

func TestEarlyAnswer_WhenUpstreamAnswersAndCloses_ThenTheAnswerArrives(t *testing.T) {
	r := newRig(t, 1)
	r.row.BufferLimit = 32 << 10
	c := r.dial()
	c.write("POST /big HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n")
	r.turn()
	u := r.ups[0].accept()
	c.write(strings.Repeat("x", 100000))
	r.turn()
	u.write("HTTP/1.1 413 no\r\ncontent-length: 4\r\n\r\nfull")
	u.close() // with unread bytes: RST
	r.turn()
	got, _ := c.read()
	r.want("client", got, "413 Payload Too Large", "connection: close\r\n", "\r\n\r\nfull")
	c.close()
	r.turn()
	r.check()
}

func TestBackPressure_WhenTheClientDoesNotRead_ThenTheUpstreamIsNotRead(t *testing.T) {
	r := newRig(t, 1)
	r.lis.BufferLimit = 32 << 10
	c := r.dial()
	c.write(get)
	r.turn()
	u := r.ups[0].accept()
	u.read()
	u.write("HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
	sent := 0
	chunk := []byte(strings.Repeat("y", 64<<10))
	for range 2000 {
		n, err := writeSome(u, chunk)
		sent += n
		r.turn()
		if err {
			break
		}
	}
	if sent > 4<<20 {
		t.Errorf("%d bytes were taken from the upstream although the client reads nothing", sent)
	}
	total := 0
	for total < 50000000 {
		got, eof := c.read()
		total += len(got)
		if eof {
			t.Fatalf("closed after %d bytes", total)
		}
		r.turn()
		if sent < 50000000 {
			n, _ := writeSome(u, chunk[:min(len(chunk), 50000000-sent)])
			sent += n
			r.turn()
		} else if got == "" {
			break
		}
	}
	if total < 50000000 {
		t.Errorf("client got %d bytes", total)
	}
	r.check()
}

func TestPipeline_WhenManyRequestsComeAtOnce_ThenAnsweredInOrder(t *testing.T) {
	r := newRig(t, 1)
	e := r.route()
	e.Kind, e.Forward, e.Direct = route.ActionDirect, nil, &route.Direct{Status: 200, Body: []byte("d")}
	c := r.dial()
	c.write(strings.Repeat(get, 100))
	r.turn()
	got, _ := c.read()
	if n := strings.Count(got, "\r\n\r\nd"); n != 100 {
		t.Errorf("%d answers", n)
	}
	if len(r.log) != 100 {
		t.Errorf("%d log lines", len(r.log))
	}
	r.check()
}

func TestPipeline_WhenTheClientDoesNotRead_ThenRequestsWait(t *testing.T) {
	r := newRig(t, 1)
	r.lis.BufferLimit = 16 << 10
	e := r.route()
	e.Kind, e.Forward, e.Direct = route.ActionDirect, nil, &route.Direct{Status: 200, Body: bytes.Repeat([]byte("d"), 4096)}
	c := r.dial()
	req := []byte(strings.Repeat(get, 50))
	asked := 0
	for range 100 {
		n, full := writeSome(c, req)
		asked += n
		r.turn()
		if full || n < len(req) {
			break
		}
	}
	if len(r.log) >= asked/len(get) && asked/len(get) > 200 {
		t.Errorf("all %d requests were answered into a full connection", len(r.log))
	}
	answers := 0
	for range 1000 {
		got, _ := c.read()
		answers += strings.Count(got, "200 OK")
		r.turn()
	}
	if answers != asked/len(get) {
		t.Errorf("%d answers to %d requests", answers, asked/len(get))
	}
	c.close()
	r.turn()
	r.check()
}

func TestIdle_WhenTheClientDoesNotReadTheLastResponse_ThenStreamIdleEndsIt(t *testing.T) {
	r := newRig(t, 1)
	r.hcm.ConnIdle = 0
	r.lis.BufferLimit = 8 << 20
	c := r.dial()
	c.write(get)
	r.turn()
	u := r.ups[0].accept()
	u.read()
	u.write("HTTP/1.1 200 OK\r\ncontent-length: 4000000\r\n\r\n")
	body := bytes.Repeat([]byte("z"), 64<<10)
	for sent := 0; sent < 4000000; {
		n, _ := writeSome(u, body[:min(len(body), 4000000-sent)])
		sent += n
		r.turn()
	}
	if len(r.log) != 1 {
		t.Fatalf("log %q", r.log)
	}
	r.wait(301 * sys.Second)
	r.wait(301 * sys.Second)
	if r.env.Connections() != 0 {
		t.Error("the connection is still there")
	}
	r.check()
}

// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// inner is what a vandal tries to get past the proxy: a backend that sees it fails the run, because it has no plan.
const inner = "GET /smuggled HTTP/1.1\r\nhost: soak\r\n\r\n"

// frames are ways to be misunderstood. %H is the head of a request with a plan up to its framing fields, %I what must not become a request.
var frames = []string{
	"%Hcontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n%I",
	"%Htransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n%I",
	"%Htransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n%I",
	"%Htransfer-encoding: xchunked\r\n\r\n%I",
	"%Htransfer-encoding : chunked\r\n\r\n%I",
	"%Htransfer-encoding:\tchunked\r\ncontent-length: 0\r\n\r\n%I",
	"%Hcontent-length: 0\r\ncontent-length: %N\r\n\r\n%I",
	"%Hcontent-length: +%N\r\n\r\n%I",
	"%Hcontent-length: 0x%X\r\n\r\n%I",
	"%Hcontent-length: 18446744073709551654\r\n\r\n%I",
	"%Hcontent-length: %N\r\nx: a\nb: c\r\n\r\n%I",
	"%Hx: a\r\n\r\n\x00\r\n%I",
	"%Htransfer-encoding: chunked\r\n\r\n%X;\n\r\n%I0\r\n\r\n",
	"%Htransfer-encoding: chunked\r\n\r\n-1\r\n%I",
	"%Htransfer-encoding: chunked\r\n\r\nffffffffffffffff1\r\n%I",
	"%Htransfer-encoding: chunked\r\n\r\n1\r\nxx\r\n%I",
	"%Htransfer-encoding: chunked\r\n\r\n0\r\nx y: 1\r\n\r\n%I",
	"%H folded: 1\r\ncontent-length: 0\r\n\r\n%I",
	"%Hconnection: content-length\r\ncontent-length: %N\r\n\r\n%I",
	"%Hupgrade: websocket\r\nconnection: upgrade\r\ncontent-length: %N\r\n\r\n%I",
	"\x16\x03\x01\x02\x00\x01\x00\x01%I",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n%I",
	"GET http://soak\r\n\r\n%I",
	"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n%I",
	"GET / HTTP/1.1\r\n\r\n%I",
	"%S",
}

// vandal sends one request that must not be understood in two ways, and what it hides. Anything may come back but a second answer.
func (r *run) vandal(rnd *rand.Rand, name string) {
	id := r.nextID()
	p := &plan{ID: id, Route: "/clean", Method: "POST", Status: 200, Resp: rnd.IntN(1000), Framing: "cl", Aborts: true, Vandal: true}
	head := fmt.Sprintf("POST /clean HTTP/1.1\r\nhost: soak\r\nx-id: %d\r\nx-plan: %s\r\n", id, p.encode())
	text := frames[rnd.IntN(len(frames))]
	if text == "%S" {
		text = "GET / HTTP/1.1\r\nhost: soak\r\nx: " + strings.Repeat("y", 50<<10+rnd.IntN(100<<10)) + "\r\n\r\n%I"
	}
	text = strings.NewReplacer("%H", head, "%I", inner, "%N", strconv.Itoa(len(inner)), "%X", strconv.FormatInt(int64(len(inner)), 16)).Replace(text)
	nc, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", []int{r.http, r.small}[rnd.IntN(2)]))
	if err != nil {
		r.failf("%s: connect: %v", name, err)
		return
	}
	c := nc.(*net.TCPConn)
	defer c.Close()
	w := &fragments{c: c, rnd: rnd}
	w.buf.WriteString(text)
	w.flush()
	if rnd.IntN(3) == 0 {
		return
	}
	br := bufio.NewReader(c)
	for n := 0; ; n++ {
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // a body that never ends is waited for, and so is its client
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return
		}
		if n > 0 && resp.StatusCode < 300 {
			r.failf("%s: two answers to %q", name, text)
			return
		}
		r.count("vandals", resp.Status[:3])
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return
		}
	}
}

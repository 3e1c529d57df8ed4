// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// serve answers on ln: a GET with an HTTP response, anything else with the same bytes back; both say who answered and at which address.
func serve(ln net.Listener, who string) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(20 * time.Second))
			r := bufio.NewReaderSize(c, 16<<10)
			for {
				if _, err := r.Peek(1); err != nil {
					return
				}
				head, _ := r.Peek(r.Buffered())
				mark := fmt.Sprintf("%s local=%s remote=%s", who, c.LocalAddr(), c.RemoteAddr())
				if !bytes.HasPrefix(head, []byte("GET ")) {
					_, _ = r.Discard(len(head))
					_, _ = fmt.Fprintf(c, "%s echo=%x", mark, head)
					return
				}
				for {
					line, err := r.ReadString('\n')
					if err != nil {
						return
					}
					if len(line) <= 2 {
						break
					}
				}
				if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(mark), mark); err != nil {
					return
				}
			}
		}()
	}
}

// talk sends bytes to an address and returns what comes back until the other side closes, an HTTP answer is complete, or half a second of silence
// after something came.
func talk(addr string, send []byte) (string, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Write(send); err != nil {
		return "", err
	}
	var out []byte
	b := make([]byte, 64<<10)
	wait := 5 * time.Second
	for {
		_ = c.SetReadDeadline(time.Now().Add(wait))
		n, err := c.Read(b)
		out = append(out, b[:n]...)
		if err != nil {
			if errors.Is(err, io.EOF) || len(out) > 0 {
				return string(out), nil
			}
			return "", err
		}
		wait = 100 * time.Millisecond
	}
}

// order is one line to the peer process.
type order struct {
	Addr string
	Send []byte
}

// peerMain is the program in the other network namespace: it serves every address of the services' range and talks when told to.
func peerMain() {
	for _, p := range []int{80, 443, 4444, 6000, 7777, 8000, 8443, 9080, 9443, 15010, 15014} {
		if ln, err := net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", p)); err == nil {
			go serve(ln, "peer")
		}
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			fmt.Println("bad order")
			continue
		}
		got, err := talk(o.Addr, o.Send)
		if err != nil {
			got = "error: " + err.Error()
		}
		fmt.Println(base64.StdEncoding.EncodeToString([]byte(got)))
	}
}

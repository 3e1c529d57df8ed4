// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// backend is an HTTP server of both versions, with TLS when conf is not nil: /slow answers when the client has gone, /N has N bytes, anything else is short.
func backend(t *testing.T, conf *tls.Config) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if conf != nil {
		ln = tls.NewListener(ln, conf)
	}
	srv := answering(ln)
	t.Cleanup(func() { srv.Close() })
	return addr
}

// answering is backend on a listener.
func answering(ln net.Listener) *http.Server {
	srv := &http.Server{Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(answer)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetHTTP2(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = srv.Serve(ln) }()
	return srv
}

func answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/slow" {
		<-r.Context().Done()
		return
	}
	n, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
	if err != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "hello, world\n")
		return
	}
	w.Header().Set("content-length", strconv.Itoa(n))
	for chunk := make([]byte, 32<<10); n > 0; n -= len(chunk) {
		chunk = chunk[:min(n, len(chunk))]
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package app

import (
	"fmt"
	"net"
	"net/http"

	"sidecar/internal/telemetry/stats"
	"sidecar/xds/controller"
)

func (a *App) openAdmin() error {
	if a.boot.Admin.Network == "" {
		return nil
	}
	ln, err := net.Listen(a.boot.Admin.Network, a.boot.Admin.Address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if a.State() == controller.Live {
			fmt.Fprint(w, "LIVE\n")
			return
		}
		w.WriteHeader(503)
	})
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		a.reg.Each(func(s *stats.Scope) {
			for i, st := range s.Def.Stats {
				if st.Kind <= stats.Gauge {
					v, _ := s.Value(i)
					fmt.Fprintf(w, "%s%s: %d\n", s.Prefix, st.Name, v)
				}
			}
		})
	})
	srv := &http.Server{Handler: mux}
	a.admin = srv
	go func() { _ = srv.Serve(ln) }()
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package app

import (
	"fmt"
	"net"
	"net/http"
	"os"

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
	a.writeAdminAddress(ln.Addr().String())
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

// writeAdminAddress is --admin-address-path. As in Envoy, a file that cannot be written does not stop the start.
func (a *App) writeAdminAddress(addr string) {
	if a.opt.AdminAddressPath == "" {
		return
	}
	if err := os.WriteFile(a.opt.AdminAddressPath, []byte(addr), 0o644); err != nil {
		a.log.Log("critical", "main", "cannot open admin address output file %s for writing: %v", a.opt.AdminAddressPath, err)
	}
}

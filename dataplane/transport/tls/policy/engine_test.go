// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"runtime"
	"testing"
	"time"

	"sidecar/dataplane/buf"
	transport "sidecar/dataplane/transport/tls"
)

// The transport's sessions, coroutine and all, with configurations of contexts: what one end finds out arrives in its session record.
func TestEngine_WhenContextsDriveIt_ThenSessionsKnowTheirPeers(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	m := newMesh(t)
	m.server = m.ca.leafOf(t, rsaKeyOf(t, 2048), uri("spiffe://td/server"))
	e := &transport.Engine{Pool: &buf.Pool{}}
	defer e.Close()
	w := NewWorker(On(e, func() time.Time { return epoch }))
	for round := range 2 {
		s, c := e.Server(w.Server(must(NewServer(m.serverSpec(t))))), e.Client(w.Client(must(NewClient(m.clientSpec(t))), &Target{}))
		var toS, toC []byte
		signed := 0
		for range 50 {
			toC = toC[c.Shake(toC):]
			toS, c.Out = append(toS, c.Out...), nil
			toS = toS[s.Shake(toS):]
			if j := s.Job(); j != nil {
				signed++
				j.Run()
				toS = toS[j.Done(toS):]
			}
			toC, s.Out = append(toC, s.Out...), nil
			if s.State() == transport.Open && c.State() == transport.Open {
				break
			}
		}
		if s.State() != transport.Open || c.State() != transport.Open {
			t.Fatalf("round %d: %v %v", round, s.Err(), c.Err())
		}
		si, ci := s.Info(), c.Info()
		if !si.Validated || si.Peer == nil || si.Peer.URIs[0] != "spiffe://td/client" || si.Local.URIs[0] != "spiffe://td/server" || si.Group != "X25519MLKEM768" {
			t.Errorf("server: %+v", si)
		}
		if !ci.Validated || ci.Peer.URIs[0] != "spiffe://td/server" || ci.Local.URIs[0] != "spiffe://td/client" {
			t.Errorf("client: %+v", ci)
		}
		if signed != 1 {
			t.Errorf("%d signatures were made elsewhere", signed)
		}
	}
}

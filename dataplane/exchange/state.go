// SPDX-License-Identifier: Apache-2.0

package exchange

// state is the place of an exchange in its life.
type state uint8

const (
	stFree     state = iota // in the slab
	stHead                  // the head is being looked at
	stFilter                // request filters run
	stPaused                // a request filter waits
	stBuffer                // the request body is collected for a filter
	stPick                  // route action: choose cluster and host
	stWaitPool              // in line for a connection
	stRelay                 // both directions move
	stHold                  // a response filter waits
	stBackoff               // waits before a retry
	stReply                 // a local response goes out
	stTunnel                // bytes move both ways (upgrade, CONNECT)
	stDone                  // everything is out; finish comes
	numStates
)

var stateNames = [numStates]string{"free", "head", "filter", "paused", "buffer", "pick", "waitPool", "relay", "hold", "backoff", "reply", "tunnel",
	"done"}

func (s state) String() string { return stateNames[s] }

func to(s ...state) (m uint16) {
	for _, x := range s {
		m |= 1 << x
	}
	return m
}

// edges says which state may follow which; every state may end in stReply (before the response began) or stDone.
var edges = [numStates]uint16{
	stFree:     to(stHead),
	stHead:     to(stFilter, stReply, stDone),
	stFilter:   to(stPaused, stBuffer, stPick, stReply, stDone),
	stPaused:   to(stFilter, stReply, stDone),
	stBuffer:   to(stFilter, stReply, stDone),
	stPick:     to(stWaitPool, stRelay, stBackoff, stReply, stDone),
	stWaitPool: to(stPick, stRelay, stTunnel, stBackoff, stReply, stDone),
	stRelay:    to(stBackoff, stPick, stHold, stTunnel, stReply, stFilter, stDone),
	stHold:     to(stRelay, stReply, stDone),
	stBackoff:  to(stPick, stReply, stDone),
	stReply:    to(stDone),
	stTunnel:   to(stDone),
	stDone:     to(stFree),
}

// to moves the exchange and keeps the last eight states for dumps.
func (x *Exchange) to(n state) {
	if edges[x.st]&(1<<n) == 0 {
		panic("exchange: no edge from " + x.st.String() + " to " + n.String()) // our bug; the loop or the stream contains it, and Poison ends what it can
	}
	x.st = n
	x.trail = x.trail<<4 | uint64(n)
}

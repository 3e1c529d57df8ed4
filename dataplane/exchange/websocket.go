// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"crypto/sha1" //nolint:gosec // what RFC 6455 section 1.3 wants
	"encoding/base64"
	"encoding/binary"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
)

// A WebSocket handshake has a key over HTTP/1 (RFC 6455 section 1.3), and none over HTTP/2 (RFC 8441 section 5). Between the two the proxy makes what is
// missing. A key or its answer that comes over HTTP/2 anyway, as from Envoy, is passed on.

// webSocketGUID is what RFC 6455 section 1.3 puts behind the key.
const webSocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

var (
	keyWebSocketKey    = httpmsg.KeyOf("sec-websocket-key")
	keyWebSocketAccept = httpmsg.KeyOf("sec-websocket-accept")
)

// webSocketKey gives the request of an HTTP/2 client to an HTTP/1 upstream a key.
func (x *Exchange) webSocketKey() {
	if x.reqIn.s == nil || !x.req.Upgrade || !equalFold(x.req.Get(httpmsg.IDUpgrade), "websocket") {
		return
	}
	if _, ok := x.req.GetKey(keyWebSocketKey); ok {
		return
	}
	var nonce [16]byte
	binary.LittleEndian.PutUint64(nonce[:], x.env.L.Rand())
	binary.LittleEndian.PutUint64(nonce[8:], x.env.L.Rand())
	x.req.AddSpan(keyWebSocketKey, x.reqA.Take(base64.StdEncoding.AppendEncode(x.reqA.Tail(), nonce[:])))
	x.ownKey = true
}

// agreed tells whether the response head made a tunnel of the try.
func (x *Exchange) agreed() bool {
	return x.respIn.tunnel(&x.resp, x.req.Method == httpmsg.MethodConnect)
}

// acceptUpgrade completes the answer to a WebSocket handshake: one to our own key is checked and goes no further, one that an HTTP/2 upstream has not given
// is made from the client's key.
func (x *Exchange) acceptUpgrade() fault.Kind {
	got, has := x.resp.GetKey(keyWebSocketAccept)
	key, ok := x.req.GetKey(keyWebSocketKey)
	switch {
	case !ok || !x.resp.Upgrade:
	case x.ownKey:
		var b [32]byte
		if string(got) != string(appendAccept(b[:0], key)) {
			return fault.UpstreamProtocol
		}
		x.resp.Remove(keyWebSocketAccept)
	case !has && x.reqIn.s == nil && x.respIn.s != nil && equalFold(x.req.Get(httpmsg.IDUpgrade), "websocket"):
		x.resp.AddSpan(keyWebSocketAccept, x.respA.Take(appendAccept(x.respA.Tail(), key)))
	}
	return fault.None
}

// appendAccept appends sec-websocket-accept for a key.
func appendAccept(b, key []byte) []byte {
	var t [64 + len(webSocketGUID)]byte
	sum := sha1.Sum(append(append(t[:0], key...), webSocketGUID...)) //nolint:gosec // see above
	return base64.StdEncoding.AppendEncode(b, sum[:])
}

// misleading tells that an HTTP/2 client would take a refusal for consent: any 2xx is that to extended CONNECT, and only 101 is over HTTP/1.
func (x *Exchange) misleading() bool {
	return x.reqIn.s != nil && x.resp.Status/100 == 2 && x.req.Method != httpmsg.MethodConnect
}

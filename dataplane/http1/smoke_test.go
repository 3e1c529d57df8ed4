// SPDX-License-Identifier: Apache-2.0

package http1

import "testing"

func TestSmoke(t *testing.T) {
	for _, s := range []string{
		"GET /a?b HTTP/1.1\r\nHost: x\r\nUser-Agent: y\r\n\r\nPOST / HTTP/1.1\r\nHost: z\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\nX: y\r\n\r\n",
		"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET http://u@a:1?x HTTP/1.1\r\nHost: q\r\n\r\n",
		"\x16\x03\x01\x00\xa5\x01\x00",
	} {
		t.Log(invariant(t, func() *Decoder { return request(strict()) }, s, true))
	}
}

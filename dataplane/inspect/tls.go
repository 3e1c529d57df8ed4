// SPDX-License-Identifier: Apache-2.0

package inspect

// MaxClientHello is the default of TlsInspector.max_client_hello_size.
const MaxClientHello = 16 << 10

// HelloMem is a good capacity for the storage handed to ClientHello: a server name of full length and a long protocol list.
const HelloMem = 512

// Hello is what a ClientHello says. The slices lie in the storage that was handed in.
type Hello struct {
	ServerName []byte // server_name (RFC 6066 section 3) in lower case; empty if absent
	ALPN       []byte // protocol list (RFC 7301 section 3.1) in wire form, for NextProtocol; empty if absent
	TooLarge   bool   // with Reject: beyond the limit rather than malformed
}

// NextProtocol cuts the first name off a protocol list; it returns nil at the end.
func NextProtocol(list []byte) (name, rest []byte) {
	if len(list) == 0 || len(list) <= int(list[0]) {
		return nil, nil
	}
	n := int(list[0]) + 1
	return list[1:n], list[n:]
}

const (
	recordHeader    = 5
	recordHandshake = 22
	maxRecord       = 16384 // plaintext, RFC 8446 section 5.1
	clientHello     = 1
	extServerName   = 0
	extALPN         = 16
)

// ClientHello parses a TLS ClientHello (RFC 8446 section 4.1.2) that may be spread over several records. limit bounds its handshake message in bytes (0 =
// MaxClientHello). mem is storage for the result; a hello that does not fit there is rejected.
// NoMatch: not TLS. Reject: a TLS record whose content is no well-formed ClientHello; Envoy takes that for plain text unless
// close_connection_on_client_hello_parsing_errors is set, and closes when TooLarge.
func ClientHello(prefix []byte, limit int, mem []byte) (h Hello, v Verdict) {
	if limit <= 0 {
		limit = MaxClientHello
	}
	for i, want := range [...]byte{recordHandshake, 3} {
		if i < len(prefix) && prefix[i] != want {
			return h, NoMatch
		}
	}
	r := records{b: prefix}
	v = r.length(limit, &h)
	if v != Match {
		return h, v
	}
	if !h.parse(&r, mem[:0]) {
		return Hello{}, Reject
	}
	return h, Match
}

// records reads the handshake bytes of a sequence of TLS records.
type records struct {
	b    []byte
	pos  int // next byte of b
	left int // bytes left of the current record
	size int // bytes left of the handshake message
}

// length looks whether the message is complete, walking the record headers only.
func (r *records) length(limit int, h *Hello) Verdict {
	have := 0
	var head [4]byte
	for pos := 0; ; {
		if pos+recordHeader > len(r.b) {
			if pos < len(r.b) && r.b[pos] != recordHandshake || pos+1 < len(r.b) && r.b[pos+1] != 3 {
				return Reject
			}
			return NeedMore
		}
		rec := r.b[pos : pos+recordHeader]
		n := int(rec[3])<<8 | int(rec[4])
		if rec[0] != recordHandshake || rec[1] != 3 || n == 0 || n > maxRecord {
			return Reject
		}
		pos += recordHeader
		body := r.b[pos:min(pos+n, len(r.b))]
		if have < len(head) {
			copy(head[have:], body)
		}
		have += len(body)
		pos += n
		if have > 0 && head[0] != clientHello {
			return Reject
		}
		if have >= len(head) {
			r.size = int(head[1])<<16 | int(head[2])<<8 | int(head[3])
			if r.size+len(head) > limit {
				h.TooLarge = true
				return Reject
			}
			if have >= r.size+len(head) {
				r.take(len(head))
				return Match
			}
		}
		if pos > len(r.b) {
			return NeedMore
		}
	}
}

// take consumes n handshake bytes; they are there.
func (r *records) take(n int) {
	for n > 0 {
		k := r.chunk(n)
		r.pos += k
		r.left -= k
		n -= k
	}
}

// chunk returns how many of the next n bytes lie in one record, entering the next record if need be.
func (r *records) chunk(n int) int {
	if r.left == 0 {
		r.left = int(r.b[r.pos+3])<<8 | int(r.b[r.pos+4])
		r.pos += recordHeader
	}
	return min(n, r.left)
}

// skip consumes n bytes of the message body; false if the message has fewer.
func (r *records) skip(n int) bool {
	if n > r.size {
		return false
	}
	r.size -= n
	r.take(n)
	return true
}

// uint reads a big-endian number of n bytes.
func (r *records) uint(n int) (v int, ok bool) {
	if n > r.size {
		return 0, false
	}
	r.size -= n
	for range n {
		r.chunk(1)
		v = v<<8 | int(r.b[r.pos])
		r.pos++
		r.left--
	}
	return v, true
}

// read appends n bytes to mem; false if they do not fit or are not there.
func (r *records) read(mem []byte, n int) ([]byte, bool) {
	if n > r.size || n > cap(mem)-len(mem) {
		return mem, false
	}
	r.size -= n
	for n > 0 {
		k := r.chunk(n)
		mem = append(mem, r.b[r.pos:r.pos+k]...)
		r.pos += k
		r.left -= k
		n -= k
	}
	return mem, true
}

// vector skips a vector whose length takes lenBytes, and checks that the length is between lo and hi.
func (r *records) vector(lenBytes, lo, hi int) bool {
	n, ok := r.uint(lenBytes)
	return ok && n >= lo && n <= hi && r.skip(n)
}

// parse reads the body of the ClientHello.
func (h *Hello) parse(r *records, mem []byte) bool {
	if !r.skip(2+32) || !r.vector(1, 0, 32) || !r.vector(2, 2, 1<<16-2) || !r.vector(1, 1, 255) {
		return false
	}
	if r.size == 0 {
		return true // no extensions at all: TLS 1.2 and older
	}
	total, ok := r.uint(2)
	if !ok || total != r.size {
		return false
	}
	var names, alpns int
	for r.size > 0 {
		typ, ok1 := r.uint(2)
		n, ok2 := r.uint(2)
		if !ok1 || !ok2 || n > r.size {
			return false
		}
		ok := false
		switch typ {
		case extServerName:
			names++
			mem, ok = h.serverName(r, n, mem)
		case extALPN:
			alpns++
			mem, ok = h.protocols(r, n, mem)
		default:
			ok = r.skip(n)
		}
		if !ok || names > 1 || alpns > 1 {
			return false
		}
	}
	return true
}

// serverName reads a server_name extension of n bytes: a list of one host name.
func (h *Hello) serverName(r *records, n int, mem []byte) ([]byte, bool) {
	list, ok1 := r.uint(2)
	typ, ok2 := r.uint(1)
	size, ok3 := r.uint(2)
	if !ok1 || !ok2 || !ok3 || n < 5 || list != n-2 || typ != 0 || size != n-5 || size == 0 || size > 255 {
		return mem, false
	}
	from := len(mem)
	mem, ok := r.read(mem, size)
	if !ok {
		return mem, false
	}
	h.ServerName = mem[from:len(mem):len(mem)]
	for i, c := range h.ServerName {
		if c == 0 {
			return mem, false
		}
		if 'A' <= c && c <= 'Z' {
			h.ServerName[i] = c + 'a' - 'A'
		}
	}
	return mem, true
}

// protocols reads an application_layer_protocol_negotiation extension of n bytes.
func (h *Hello) protocols(r *records, n int, mem []byte) ([]byte, bool) {
	size, ok := r.uint(2)
	if !ok || n < 2 || size != n-2 || size < 2 {
		return mem, false
	}
	from := len(mem)
	if mem, ok = r.read(mem, size); !ok {
		return mem, false
	}
	h.ALPN = mem[from:len(mem):len(mem)]
	for list := h.ALPN; len(list) > 0; {
		if list[0] == 0 || len(list) <= int(list[0]) {
			return mem, false
		}
		list = list[int(list[0])+1:]
	}
	return mem, true
}

// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"encoding/binary"
	"math/bits"

	"sidecar/dataplane/httpmsg"
)

// policy says when a field enters the dynamic table.
type policy uint8

const (
	// second: when it was seen before, lately. Values that never return stay out without a list of their names.
	second policy = iota
	// first: at once; the name has few values.
	first
	// never: the value is unique or secret; only the name is indexed, for which one field is inserted when the name is not in the static table.
	never
)

// nameKey is what the encoder knows of a name. hash is hashBytes(0, name).
type nameKey struct {
	name   []byte
	hash   uint32
	static uint8 // first entry of the static table with this name, 0 if none
	policy policy
	id     httpmsg.ID
	pseudo Pseudo
}

// staticGzip is the only ordinary entry of the static table that has a value.
const staticGzip = 16

var firstIDs = []httpmsg.ID{httpmsg.IDContentType, httpmsg.IDUserAgent, httpmsg.IDTE, httpmsg.IDServer, httpmsg.IDVia, httpmsg.IDAccept,
	httpmsg.IDAcceptEncoding, httpmsg.IDContentEncoding, httpmsg.IDTrailer, httpmsg.IDForwardedProto, httpmsg.IDForwardedPort, httpmsg.IDGrpcStatus,
	httpmsg.IDEnvoyAttemptCount, httpmsg.IDEnvoyInternal, httpmsg.IDEnvoyDecoratorOperation}

var neverIDs = []httpmsg.ID{httpmsg.IDTraceparent, httpmsg.IDTracestate, httpmsg.IDRequestID, httpmsg.IDClientTraceID, httpmsg.IDContentLength,
	httpmsg.IDGrpcTimeout, httpmsg.IDDate, httpmsg.IDETag, httpmsg.IDLastModified, httpmsg.IDAge, httpmsg.IDCookie, httpmsg.IDSetCookie,
	httpmsg.IDAuthorization, httpmsg.IDEnvoyExpectedTimeout, httpmsg.IDEnvoyUpstreamServiceTime, httpmsg.IDEnvoyStreamDuration}

// neverStatic are names of the static table without an ID: age and ranges of documents, secrets.
var neverStatic = []string{"content-range", "expires", "if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since",
	"proxy-authenticate", "proxy-authorization", "range", "www-authenticate"}

// otherSlots is the size of the open-addressed map of the static names without an ID; 25 names.
const otherSlots = 64

var (
	knownNames  [256]nameKey       // by ID
	pseudoKeys  [numPseudo]nameKey // by Pseudo
	otherStatic [otherSlots]uint8  // index in the static table, by hash
	otherPolicy [staticCount + 1]policy
)

func initPolicy() {
	for id := httpmsg.ID(1); int(id) < httpmsg.NumIDs; id++ {
		name := []byte(id.String())
		knownNames[id] = nameKey{name: name, hash: hashBytes(0, name), id: id}
	}
	for _, id := range firstIDs {
		knownNames[id].policy = first
	}
	for _, id := range neverIDs {
		knownNames[id].policy = never
	}
	for p := PseudoAuthority; p < PseudoOther; p++ {
		name := []byte(p.String())
		pseudoKeys[p] = nameKey{name: name, hash: hashBytes(0, name), policy: first, pseudo: p}
	}
	pseudoKeys[PseudoPath].policy = second
	for i := staticCount; i >= 1; i-- {
		f := &staticFields[i]
		switch {
		case f.Pseudo != PseudoNone:
			pseudoKeys[f.Pseudo].static = uint8(i)
		case f.ID != httpmsg.IDOther:
			knownNames[f.ID].static = uint8(i)
		default:
			h := hashBytes(0, f.Name) % otherSlots
			for otherStatic[h] != 0 {
				h = (h + 1) % otherSlots
			}
			otherStatic[h] = uint8(i)
			for _, n := range neverStatic {
				if n == string(f.Name) {
					otherPolicy[i] = never
				}
			}
		}
	}
}

// otherName is the key of a name without an ID.
func otherName(name []byte) nameKey {
	k := nameKey{name: name, hash: hashBytes(0, name)}
	for h := k.hash % otherSlots; otherStatic[h] != 0; h = (h + 1) % otherSlots {
		if i := otherStatic[h]; staticTable[i][0] == string(name) {
			k.static, k.policy = i, otherPolicy[i]
			break
		}
	}
	return k
}

// staticPseudo returns the index of a pseudo-header with its value in the static table, 0 if it is not there.
func staticPseudo(p Pseudo, value []byte) uint8 {
	i := pseudoKeys[p].static
	if i <= 1 { // not there, or :authority
		return 0
	}
	for ; staticFields[i].Pseudo == p; i++ {
		if staticTable[i][1] == string(value) {
			return i
		}
	}
	return 0
}

const (
	hashFactor = 0x9e3779b97f4a7c15
	hashStart  = 0xd6e8feb86659fd93
)

// hashBytes mixes b into h. It guards nothing: what it finds is always compared, and a collision costs a few octets on the wire.
func hashBytes(h uint32, b []byte) uint32 {
	x := uint64(h) ^ hashStart ^ uint64(len(b))<<32
	for ; len(b) > 8; b = b[8:] {
		x = fold(x ^ binary.LittleEndian.Uint64(b))
	}
	var tail uint64
	switch n := len(b); {
	case n == 8:
		tail = binary.LittleEndian.Uint64(b)
	case n >= 4:
		tail = uint64(binary.LittleEndian.Uint32(b)) | uint64(binary.LittleEndian.Uint32(b[n-4:]))<<32
	case n > 0:
		tail = uint64(b[0]) | uint64(b[n/2])<<8 | uint64(b[n-1])<<16
	}
	x = fold(x ^ tail)
	return uint32(x ^ x>>32)
}

func fold(x uint64) uint64 {
	hi, lo := bits.Mul64(x, hashFactor)
	return hi ^ lo
}

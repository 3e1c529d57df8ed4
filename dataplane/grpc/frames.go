// SPDX-License-Identifier: Apache-2.0

package grpc

import "encoding/binary"

// HeaderSize is the length of what stands in front of each message: a byte of flags and the length, four bytes, big endian.
const HeaderSize = 5

// Frames finds the frames of a body that comes in pieces. The zero value stands in front of the first frame.
type Frames struct {
	head [HeaderSize]byte
	n    uint8  // bytes of head that are here
	left uint32 // bytes of the message to come; n == HeaderSize
}

// Count takes a piece and returns how many frames began in it. A frame counts with its first byte, as in Envoy.
func (f *Frames) Count(p []byte) (n uint64) {
	for len(p) > 0 {
		_, rest, began := f.Next(p)
		if began {
			n++
		}
		p = rest
	}
	return n
}

// Next cuts p, which is not empty, at the end of the frame that it begins in: part is of one frame. began tells that the frame begins with part.
func (f *Frames) Next(p []byte) (part, rest []byte, began bool) {
	i := 0
	began = f.n == 0
	if f.n < HeaderSize {
		i = copy(f.head[f.n:], p)
		f.n += uint8(i)
		if f.n < HeaderSize {
			return p, nil, began
		}
		f.left = binary.BigEndian.Uint32(f.head[1:])
	}
	m := min(int(f.left), len(p)-i)
	f.left -= uint32(m)
	i += m
	if f.left == 0 {
		f.n = 0
	}
	return p[:i], p[i:], began
}

// Between tells whether no part of a frame is outstanding.
func (f *Frames) Between() bool { return f.n == 0 }

// SPDX-License-Identifier: Apache-2.0

package buf

import (
	"bytes"
	"testing"
)

func TestPool_WhenBuffersComeAndGo_ThenSizesFitAndTheBooksBalance(t *testing.T) {
	var p Pool
	for _, n := range []int{0, 1, 1023, 1024, 1025, 60 << 10, 1 << 20, 16 << 20, 16<<20 + 1} {
		b := p.Get(n)
		if len(b) != 0 || cap(b) < n || n > 1024 && n <= 16<<20 && cap(b) >= 2*n+1024 {
			t.Errorf("Get(%d): len %d cap %d", n, len(b), cap(b))
		}
		p.Put(b)
		if p.Outstanding() != 0 {
			t.Fatalf("Get(%d), Put: %d outstanding", n, p.Outstanding())
		}
	}
	p.Put(nil)
	p.Put(make([]byte, 0, 3000)) // not of this pool
	if p.Outstanding() != 0 {
		t.Error("a foreign buffer was counted")
	}
	a := p.Get(2000)
	p.Put(a)
	if b := p.Get(1500); &b[:1][0] != &a[:1][0] {
		t.Error("not reused")
	}
}

func TestPool_WhenManyAreFree_ThenKeptWithinTheBound(t *testing.T) {
	var p Pool
	var all [][]byte
	for range 100 {
		all = append(all, p.Get(64<<10))
	}
	for _, b := range all {
		p.Put(b)
	}
	if n := len(p.free[16]); n == 0 || n<<16 > keepBytes {
		t.Errorf("%d buffers of 64 KiB kept", n)
	}
	p.Put(p.Get(2 << 20))
	if p.free[21] != nil {
		t.Error("a buffer over the bound was kept")
	}
}

func TestPool_WhenABurstIsOver_ThenTrimGivesItsMemoryBack(t *testing.T) {
	var p Pool
	var all [][]byte
	var flights []*Flight
	for range 1000 {
		for _, n := range []int{1 << 10, 4 << 10, 64 << 10, 1 << 20} {
			all = append(all, p.Get(n))
		}
		flights = append(flights, p.GetFlight())
	}
	for _, b := range all {
		p.Put(b)
	}
	for _, f := range flights {
		p.PutFlight(f)
	}
	held := func() (n int) {
		for k := range p.free {
			n += len(p.free[k]) << k
		}
		return n
	}
	if n := held(); n == 0 || n > 11<<20 {
		t.Errorf("%d bytes kept after the burst", n)
	}
	used := p.Get(4 << 10)
	for range 12 {
		before := held()
		p.Trim()
		if n := held(); n > before/2 {
			t.Errorf("%d bytes of %d kept", n, before)
		}
	}
	if held() != 0 || p.flights != nil {
		t.Errorf("%d bytes and %d flights kept for ever", held(), len(p.flights))
	}
	p.Put(used)
	if p.Outstanding() != 0 || held() != 4<<10 {
		t.Error("a buffer that was out during the trims was not taken back")
	}
}

func TestGrow_WhenFull_ThenContentMoves(t *testing.T) {
	var p Pool
	b := append(p.Get(1000), bytes.Repeat([]byte("x"), 1000)...)
	same := p.Grow(b, 24)
	if &same[0] != &b[0] {
		t.Error("moved although it fits")
	}
	b = p.Grow(b, 5000)
	if len(b) != 1000 || cap(b) < 6000 || bytes.Count(b, []byte("x")) != 1000 || p.Outstanding() != cap(b) {
		t.Errorf("len %d cap %d, %d outstanding", len(b), cap(b), p.Outstanding())
	}
}

func TestFlights_WhenTheyComeBack_ThenReused(t *testing.T) {
	var p Pool
	seen := map[*Flight]bool{}
	var all []*Flight
	for range 3 * flightChunk {
		f := p.GetFlight()
		if seen[f] {
			t.Fatal("handed out twice")
		}
		seen[f] = true
		all = append(all, f)
	}
	for _, f := range all {
		p.PutFlight(f)
	}
	if p.Flights() != 0 || !seen[p.GetFlight()] {
		t.Error("not reused")
	}
	if n := testing.AllocsPerRun(100, func() { p.PutFlight(p.GetFlight()); p.Put(p.Get(4096)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	filesCheckEvery = 5 * time.Second // how often the files are looked at for a change
	searchMax       = 6               // search domains that count
	hostsMax        = 1 << 20         // bytes of the hosts file that are read
	serversMax      = 8
)

// system is the host's resolver configuration, re-read when its files change.
type system struct {
	// Immutable
	confPath, hostsPath string

	// Locked
	mu      sync.Mutex
	checked time.Time
	confAt  fileStamp
	hostsAt fileStamp
	conf    conf
	hosts   map[string][]netip.Addr
}

type fileStamp struct {
	mod  time.Time
	size int64
}

// conf is what resolv.conf says. Immutable once made.
type conf struct {
	servers []netip.AddrPort
	search  []string
	ndots   int
	timeout time.Duration
	tries   int
	rotate  bool
}

func newSystem(confPath, hostsPath string) *system {
	return &system{confPath: confPath, hostsPath: hostsPath}
}

// read returns the configuration and what the hosts file says of name (lower case, without the final dot).
func (s *system) read(name string) (conf, []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.checked.IsZero() || now.Sub(s.checked) >= filesCheckEvery {
		s.checked = now
		if at := stamp(s.confPath); at != s.confAt || s.conf.servers == nil {
			s.confAt, s.conf = at, readConf(s.confPath)
		}
		if at := stamp(s.hostsPath); at != s.hostsAt || s.hosts == nil {
			s.hostsAt, s.hosts = at, readHosts(s.hostsPath)
		}
	}
	return s.conf, s.hosts[name]
}

func stamp(path string) fileStamp {
	st, err := os.Stat(path)
	if err != nil {
		return fileStamp{}
	}
	return fileStamp{st.ModTime(), st.Size()}
}

// readConf reads resolv.conf; a missing or empty one means the name server of this host, as in the C library.
func readConf(path string) conf {
	c := conf{ndots: 1, timeout: 5 * time.Second, tries: 2}
	if f, err := dns.ClientConfigFromFile(path); err == nil {
		for _, s := range f.Servers {
			if ip, err := netip.ParseAddr(s); err == nil && len(c.servers) < serversMax {
				c.servers = append(c.servers, netip.AddrPortFrom(ip, 53))
			}
		}
		c.search = f.Search[:min(len(f.Search), searchMax)]
		c.ndots = f.Ndots
		if f.Timeout > 0 {
			c.timeout = time.Duration(f.Timeout) * time.Second
		}
		if f.Attempts > 0 {
			c.tries = f.Attempts
		}
	}
	if len(c.servers) == 0 {
		c.servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
	}
	if b, err := os.ReadFile(path); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "options" {
				for _, o := range f[1:] {
					c.rotate = c.rotate || o == "rotate"
				}
			}
		}
	}
	return c
}

func readHosts(path string) map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	b, err := os.ReadFile(path)
	if err != nil || len(b) > hostsMax {
		return out
	}
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		ip, err := netip.ParseAddr(f[0])
		if err != nil || ip.Zone() != "" {
			continue
		}
		for _, name := range f[1:] {
			key := strings.TrimSuffix(strings.ToLower(name), ".")
			out[key] = append(out[key], ip)
		}
	}
	return out
}

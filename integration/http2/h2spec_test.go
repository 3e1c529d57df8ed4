// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	h2config "github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	h2cases "github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// h2specCases is how many cases h2spec 2.2.1 has; with -S there is one more.
const h2specCases = 145

func TestH2spec_WhenRunAgainstTheServer_ThenEveryCasePasses(t *testing.T) {
	var c config
	c.cluster("b", backend(t, nil), "", "")
	c.listener("plain", "b", "", "codec_type: HTTP2, delayed_close_timeout: 0.2s,")
	c.listener("tls", "b", downstreamTLS(false), "delayed_close_timeout: 0.2s,")
	c.listener("auto", "b", "", "delayed_close_timeout: 0.2s,")
	c.direct("direct", "codec_type: HTTP2, delayed_close_timeout: 0.2s,")
	p := start(t, c.String())
	// What is no preface may be HTTP/1 with AUTO: the answer is a 400, as Envoy's is, and h2spec takes the text for a frame.
	except := map[string]string{"auto": "http2/3.5/2"}
	for name := range p.Addr {
		for _, strict := range []bool{false, true} {
			t.Run(name+map[bool]string{true: " strict"}[strict], func(t *testing.T) {
				host, port, _ := net.SplitHostPort(p.Addr[name])
				n, _ := strconv.Atoi(port)
				runH2spec(t, &h2config.Config{Host: host, Port: n, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000, Strict: strict, TLS: name == "tls", Insecure: true}, except[name])
				p.Alive(t)
			})
		}
	}
}

// runH2spec expects every case to pass but the one named except.
func runH2spec(t *testing.T, c *h2config.Config, except string) {
	groups := []*spec.TestGroup{generic.Spec(), h2cases.Spec(), hpack.Spec()}
	stdout := os.Stdout
	os.Stdout, _ = os.Open(os.DevNull) // h2spec prints as it goes
	for _, g := range groups {
		g.Test(c)
	}
	os.Stdout = stdout
	passed := 0
	for _, g := range groups {
		passed += g.PassedCount
		report(t, g, except)
	}
	total := h2specCases
	if c.Strict {
		total++
	}
	if except != "" {
		total--
	}
	t.Logf("h2spec: %d of %d passed", passed, total)
	if passed != total {
		t.Errorf("%d cases passed, there are %d", passed, total)
	}
}

// report tells what has not passed.
func report(t *testing.T, g *spec.TestGroup, except string) {
	for _, c := range append(g.Tests, g.StrictTests...) {
		switch r := c.Result; {
		case r == nil, fmt.Sprintf("%s/%d", g.ID(), r.Sequence) == except:
		case r.Skipped:
			t.Errorf("skipped: %s/%d: %s", g.ID(), r.Sequence, c.Desc)
		case r.Failed:
			t.Errorf("failed: %s/%d: %s\n%s", g.ID(), r.Sequence, c.Desc, strings.TrimSpace(r.Error.Error()))
		}
	}
	for _, sub := range g.Groups {
		report(t, sub, except)
	}
}

// SPDX-License-Identifier: Apache-2.0

package listener

import (
	"fmt"
	"strings"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	customv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/original_ip_detection/custom_header/v3"
	xffv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/original_ip_detection/xff/v3"
	"google.golang.org/protobuf/proto"

	"sidecar/dataplane/httpmsg"
	"sidecar/dataplane/snapshot"
	"sidecar/xds/registry"
)

// IPDetectors is the table of original_ip_detection_extensions.
var IPDetectors = registry.MustTable("original IP detection extensions", []registry.Row[snapshot.IPDetection]{
	{Name: "envoy.http.original_ip_detection.custom_header", Message: &customv3.CustomHeaderConfig{}, Compile: customHeader},
	{Name: "envoy.http.original_ip_detection.xff", Message: &xffv3.XffConfig{}, Compile: xffDetection},
}, nil)

func customHeader(c *registry.Ctx, m proto.Message) (snapshot.IPDetection, error) {
	p := m.(*customv3.CustomHeaderConfig)
	if strings.HasPrefix(p.GetHeaderName(), ":") {
		return snapshot.IPDetection{}, c.Errorf("header_name", "%q is not a header field", p.GetHeaderName())
	}
	out := snapshot.IPDetection{Custom: true, Header: httpmsg.KeyOf(strings.ToLower(p.GetHeaderName())), Trusted: p.GetAllowExtensionToSetAddressAsTrusted()}
	if s := p.GetRejectWithStatus(); s != nil {
		if out.RejectStatus = uint16(s.GetCode()); out.RejectStatus < 400 || out.RejectStatus > 511 {
			out.RejectStatus = 403
		}
	}
	return out, nil
}

func xffDetection(c *registry.Ctx, m proto.Message) (snapshot.IPDetection, error) {
	p := m.(*xffv3.XffConfig)
	out := snapshot.IPDetection{Hops: p.GetXffNumTrustedHops(), AppendXFF: p.GetSkipXffAppend() != nil && !p.GetSkipXffAppend().GetValue()}
	if p.GetXffTrustedCidrs() != nil && out.Hops > 0 {
		return out, c.Errorf("xff_trusted_cidrs", "Cannot set both xff_num_trusted_hops and xff_trusted_cidrs")
	}
	for i, r := range p.GetXffTrustedCidrs().GetCidrs() {
		q, err := CIDR(r)
		if err != nil {
			return out, c.Errorf(registry.Path(fmt.Sprintf("xff_trusted_cidrs.cidrs[%d]", i)), "%w", err)
		}
		out.Ranges = append(out.Ranges, q)
	}
	return out, nil
}

func (s *state) ipDetection(c *registry.Ctx, h *hcmv3.HttpConnectionManager, out *snapshot.HCM) {
	list := h.GetOriginalIpDetectionExtensions()
	if len(list) > 0 && out.UseRemoteAddr {
		s.fail(c.Errorf("original_ip_detection_extensions", "Original IP detection extensions and use_remote_address may not be mixed"))
	}
	if len(list) > 0 && out.XFFHops > 0 {
		s.fail(c.Errorf("original_ip_detection_extensions", "Original IP detection extensions and xff_num_trusted_hops may not be mixed"))
	}
	for i, e := range list {
		d, err := IPDetectors.Compile(c, registry.Path(fmt.Sprintf("original_ip_detection_extensions[%d].typed_config", i)), e.GetName(), e.GetTypedConfig())
		if err != nil {
			s.fail(err)
			continue
		}
		out.IPDetection = append(out.IPDetection, d)
	}
}

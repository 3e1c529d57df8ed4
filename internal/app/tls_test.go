// SPDX-License-Identifier: Apache-2.0

package app

import (
	"errors"
	"strings"
	"testing"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"sidecar/dataplane/transport/tls/policy"
	"sidecar/xds/compile/cluster"
	"sidecar/xds/compile/secret"
	"sidecar/xds/compile/transportsocket"
	"sidecar/xds/controller"
	"sidecar/xds/registry"
)

func TestTLS_WhenAContextNamesASecret_ThenTheControllerCanBringIt(t *testing.T) {
	var k controller.Compilers
	plugTLS(&k, &secret.Compiler{})
	cl, err := policy.NewClient(policy.ClientSpec{Validation: policy.Ref[policy.Validation]{Secret: "root"}})
	if err != nil {
		t.Fatal(err)
	}
	list := k.ClusterTLS(&cluster.Result{TLS: []transportsocket.Client{{TLS: cl, Secrets: []transportsocket.SecretRef{{Key: "root", Name: "ROOTCA"}}}}})
	if len(list) != 1 || len(list[0].Secrets()) != 1 || list[0].Secrets()[0].Name != "ROOTCA" {
		t.Fatalf("contexts %+v", list)
	}
	x := list[0]
	if own, roots := x.Materials(); own != nil || roots != nil || cl.Ready() {
		t.Error("a context without its secret is ready")
	}
	if err := x.Update(func(string) any { return nil }); !errors.Is(err, policy.ErrWaiting) {
		t.Errorf("without the secret: %v", err)
	}
	ctx := &registry.Ctx{Report: &registry.Report{}}
	content, err := k.Secret(ctx, &tlsv3.Secret{Name: "ROOTCA", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Update(func(string) any { return content }); err != nil || !cl.Ready() {
		t.Errorf("with the secret: %v", err)
	}
	if _, err := k.Secret(ctx, &tlsv3.Secret{Name: "x"}); err == nil || !strings.Contains(err.Error(), "Secret type not implemented") {
		t.Errorf("empty secret: %v", err)
	}
}

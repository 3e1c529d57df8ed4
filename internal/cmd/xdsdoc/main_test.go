// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestDocument_WhenRendered_ThenEveryChapterHasItsTables(t *testing.T) {
	text := document().Markdown()
	if text != document().Markdown() {
		t.Fatal("not the same twice")
	}
	for _, want := range []string{
		"\n## Bootstrap\n\n### envoy.config.bootstrap.v3.Bootstrap\n", "### envoy.config.core.v3.ApiConfigSource\n", "\n## Listeners (LDS)\n\n### envoy.config.listener.v3.Listener\n",
		"### envoy.config.route.v3.VirtualHost\n", "### envoy.config.cluster.v3.Cluster\n", "### envoy.config.endpoint.v3.LbEndpoint\n",
		"| `envoy.filters.network.http_connection_manager` |", "| `envoy.filters.http.router` |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q", want)
		}
	}
}

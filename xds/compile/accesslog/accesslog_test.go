// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/formatter/req_without_query/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"sidecar/dataplane/fault"
	"sidecar/dataplane/httpmsg"
	"sidecar/internal/telemetry/accesslog"
	"sidecar/internal/telemetry/stats"
	"sidecar/xds/registry"
)

type sinks struct{ opened []string }

func (s *sinks) Open(path string) (*accesslog.Sink, error) {
	if strings.HasPrefix(path, "/bad") {
		return nil, errors.New("unable to open file '" + path + "': no such file or directory")
	}
	s.opened = append(s.opened, path)
	sink, _ := accesslog.NewSink(path, 1, stats.NewRegistry(1).Scope("filesystem.", stats.FilesystemDef), accesslog.FileCounters, 0)
	return sink, nil
}

func ctx() *registry.Ctx { return &registry.Ctx{Path: "access_log[0]", Report: &registry.Report{}} }

func compile(t *testing.T, js string) (*accesslog.Logger, *sinks, error) {
	t.Helper()
	in := &accesslogv3.AccessLog{}
	if err := protojson.Unmarshal([]byte(js), in); err != nil {
		t.Fatal(err)
	}
	s := &sinks{}
	l, err := (&Compiler{Sinks: s}).Compile(ctx(), in)
	return l, s, err
}

const fileURL = `"@type":"type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"`

func render(l *accesslog.Logger) string {
	h := &httpmsg.Head{}
	h.Reset(&httpmsg.Arena{})
	h.SetPath([]byte("/a?b"))
	return string(l.Format.Append(nil, &accesslog.Record{Code: 200, Protocol: "HTTP/1.1", Req: h}))
}

func TestCompile_WhenFormatIsGiven_ThenLineFollowsIt(t *testing.T) {
	t.Setenv("TEST_FORMAT", "env %PROTOCOL%")
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, []byte("file %PROTOCOL%"), 0o600); err != nil {
		t.Fatal(err)
	}
	for js, want := range map[string]string{
		`"format":"%RESPONSE_CODE%"`:                                                 "200",
		`"json_format":{"c":"%RESPONSE_CODE%"}`:                                      `{"c":"200"}` + "\n",
		`"typed_json_format":{"c":"%RESPONSE_CODE%"}`:                                `{"c":200}` + "\n",
		`"log_format":{"text_format":"%RESPONSE_CODE% %REQ(zz)%"}`:                   "200 -",
		`"log_format":{"json_format":{"c":"%REQ(zz)%"}}`:                             `{"c":null}` + "\n",
		`"log_format":{"json_format":{"c":"%REQ(zz)%"},"omitEmptyValues":true}`:      "{}\n",
		`"log_format":{"text_format_source":{"inline_string":"in %PROTOCOL%"}}`:      "in HTTP/1.1",
		`"log_format":{"text_format_source":{"environment_variable":"TEST_FORMAT"}}`: "env HTTP/1.1",
		`"log_format":{"text_format_source":{"filename":"` + file + `"}}`:            "file HTTP/1.1",
		`"log_format":{"text_format":"%REQ_WITHOUT_QUERY(:PATH)%","formatters":[{"name":"x","typed_config":{"@type":"type.googleapis.com/envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery"}}]}`: "/a",
	} {
		l, s, err := compile(t, `{"name":"f","typed_config":{`+fileURL+`,"path":"/p",`+js+`}}`)
		if err != nil {
			t.Errorf("%s: %v", js, err)
			continue
		}
		if got := render(l); got != want || len(s.opened) != 1 || s.opened[0] != "/p" {
			t.Errorf("%s: got %q want %q, opened %v", js, got, want, s.opened)
		}
	}
	for url, path := range map[string]string{"Stdout": "/dev/stdout", "Stderr": "/dev/stderr"} {
		l, s, err := compile(t, `{"typed_config":{"@type":"type.googleapis.com/envoy.extensions.access_loggers.stream.v3.`+url+`AccessLog"}}`)
		if err != nil || s.opened[0] != path || l.Format != accesslog.Default() || l.Filter != nil {
			t.Errorf("%s: %v %v", url, err, s.opened)
		}
	}
}

func TestCompile_WhenConfigIsWrong_ThenErrorNamesThePath(t *testing.T) {
	file := func(s string) string { return `{"name":"f","typed_config":{` + fileURL + `,"path":"/p"` + s + `}}` }
	with := func(filter string) string {
		return `{"filter":` + filter + `,"typed_config":{` + fileURL + `,"path":"/p"}}`
	}
	for js, want := range map[string]string{
		`{}`:                       "access_log[0].typed_config: access logger \"\" has no typed_config",
		file(`,"format":"%NOPE%"`): "access_log[0].typed_config.format: not supported field in StreamInfo: NOPE",
		file(`,"log_format":{"json_format":{"a":["%NOPE%"]}}`):                                                                "access_log[0].typed_config.log_format.json_format: a[0]: not supported field",
		file(`,"log_format":{"text_format_source":{"inline_string":"x","watched_directory":{"path":"/"}}}`):                   "log_format.text_format_source.watched_directory",
		file(`,"log_format":{"text_format":"%REQ_WITHOUT_QUERY(:PATH)%"}`):                                                    "REQ_WITHOUT_QUERY",
		`{"typed_config":{` + fileURL + `,"path":"/bad/x"}}`:                                                                  "access_log[0].typed_config: unable to open file '/bad/x'",
		`{"typed_config":{` + fileURL + `}}`:                                                                                  "access_log[0].typed_config.path: value length must be at least 1",
		with(`{"response_flag_filter":{"flags":["UH"]}}`):                                                                     "",
		with(`{"extension_filter":{"name":"cel"}}`):                                                                           "access_log[0].filter.extension_filter.typed_config: unknown type",
		with(`{"and_filter":{"filters":[{"not_health_check_filter":{}},{"status_code_filter":{"comparison":{"op":"EQ"}}}]}}`): "",
		with(`{"or_filter":{"filters":[{"extension_filter":{"name":"a"}},{"extension_filter":{"name":"b"}}]}}`):               "access_log[0].filter.or_filter.filters[1].extension_filter",
		with(`{}`): "access_log[0].filter.filter_specifier: value is required",
	} {
		_, _, err := compile(t, js)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s:\n got %v\nwant %s", js, err, want)
		}
	}
}

func TestCompile_WhenLoggerIsNotSupported_ThenRefusedByName(t *testing.T) {
	_, err := (&Compiler{Sinks: &sinks{}}).Compile(ctx(), &accesslogv3.AccessLog{Name: "g", ConfigType: &accesslogv3.AccessLog_TypedConfig{
		TypedConfig: &anypb.Any{TypeUrl: "type.googleapis.com/envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig"}}})
	if !errors.Is(err, registry.ErrUnknownType) || !strings.Contains(err.Error(), "OpenTelemetry access log") {
		t.Errorf("%v", err)
	}
}

func TestFilter_WhenCompiled_ThenItDecides(t *testing.T) {
	head := func(v string) *httpmsg.Head {
		h := &httpmsg.Head{}
		h.Reset(&httpmsg.Arena{})
		h.AddString(httpmsg.Key{Name: "x-a", ID: httpmsg.Lookup("x-a")}, v)
		return h
	}
	for js, tc := range map[string]struct {
		yes, no *accesslog.Record
	}{
		`{"status_code_filter":{"comparison":{"op":"GE","value":{"default_value":400,"runtime_key":"k"}}}}`: {&accesslog.Record{Code: 404}, &accesslog.Record{Code: 200}},
		`{"duration_filter":{"comparison":{"op":"LE","value":{"default_value":5,"runtime_key":"k"}}}}`:      {&accesslog.Record{End: 5e6}, &accesslog.Record{End: 6e6}},
		`{"response_flag_filter":{"flags":["NR"]}}`:                                                         {&accesslog.Record{Flags: fault.FlagNR}, &accesslog.Record{Flags: fault.FlagUH}},
		`{"header_filter":{"header":{"name":"x-a","string_match":{"exact":"v"}}}}`:                          {&accesslog.Record{Req: head("v")}, &accesslog.Record{}},
		`{"grpc_status_filter":{"statuses":["NOT_FOUND"],"exclude":true}}`: {&accesslog.Record{}, &accesslog.Record{Resp: func() *httpmsg.Head {
			h := head("")
			h.AddString(httpmsg.Key{Name: "grpc-status", ID: httpmsg.IDGrpcStatus}, "5")
			return h
		}()}},
		`{"log_type_filter":{"types":["DownstreamEnd"]}}`:                          {&accesslog.Record{Type: accesslog.DownstreamEnd}, &accesslog.Record{Type: accesslog.DownstreamStart}},
		`{"traceable_filter":{}}`:                                                  {&accesslog.Record{TraceReason: accesslog.TraceForced}, &accesslog.Record{TraceReason: accesslog.TraceSampled}},
		`{"runtime_filter":{"runtime_key":"k","percent_sampled":{"numerator":0}}}`: {nil, &accesslog.Record{}},
		`{"metadata_filter":{"matcher":{"filter":"n","path":[{"key":"k"}],"value":{"string_match":{"exact":"v"}}},"match_if_key_not_found":false}}`: {
			&accesslog.Record{DynamicMeta: map[string]any{"n": map[string]any{"k": "v"}}}, &accesslog.Record{}},
	} {
		l, _, err := compile(t, `{"filter":`+js+`,"typed_config":{`+fileURL+`,"path":"/p"}}`)
		if err != nil {
			t.Errorf("%s: %v", js, err)
			continue
		}
		if tc.yes != nil && !l.Wants(tc.yes, 0) || l.Wants(tc.no, 0) {
			t.Errorf("%s decides wrongly", js)
		}
	}
}

func TestFormat_WhenUsedForBodies_ThenContentTypeIsEnvoys(t *testing.T) {
	for js, want := range map[string]string{`{"text_format":"x"}`: "text/plain", `{"json_format":{"a":"b"}}`: "application/json",
		`{"text_format":"x","content_type":"text/html; charset=UTF-8"}`: "text/html; charset=UTF-8"} {
		in := &corev3.SubstitutionFormatString{}
		if err := protojson.Unmarshal([]byte(js), in); err != nil {
			t.Fatal(err)
		}
		_, ct, err := Format(ctx(), "body_format", in)
		if err != nil || ct != want {
			t.Errorf("%s: %q %v", js, ct, err)
		}
	}
	if _, _, err := Format(ctx(), "body_format", &corev3.SubstitutionFormatString{}); err == nil || !strings.Contains(err.Error(), "access_log[0].body_format.format") {
		t.Errorf("%v", err)
	}
}

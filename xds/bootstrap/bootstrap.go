// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"sidecar/xds/registry"
)

// FileMax bounds the size of a bootstrap file.
const FileMax = 64 << 20

// Format of a document.
type Format uint8

// The formats; Envoy chooses by the file's extension, never by its content.
const (
	YAML Format = iota
	JSON
	Binary    // .pb
	TextProto // .pb_text
)

// FormatOf returns the format for a file name: .json, .pb, .pb_text; anything else is YAML, as for Envoy.
func FormatOf(path string) Format {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".json":
		return JSON
	case ".pb", ".pb_bin":
		return Binary
	case ".pb_text", ".pbtxt":
		return TextProto
	}
	return YAML
}

// Options of Load: the command line's part of the bootstrap.
type Options struct {
	// Path of the bootstrap file (-c); "" when only ConfigYAML is given. Data, when not nil, is used instead of reading Path, whose
	// extension still decides the format.
	Path string
	Data []byte
	// ConfigYAML (--config-yaml) is merged over the file: messages merge, repeated fields append.
	ConfigYAML string
	// AllowUnknown accepts fields the API does not know, with a warning (--allow-unknown-static-fields).
	AllowUnknown bool
	// ServiceNode, ServiceCluster and ServiceZone override the node's id, cluster and zone when not "".
	ServiceNode, ServiceCluster, ServiceZone string
}

// SourceKind says where a discovery service gets its resources.
type SourceKind uint8

// The kinds of config source.
const (
	SourceADS  SourceKind = iota + 1 // the aggregated stream of ads_config
	SourceGRPC                       // a stream of its own, or polling over REST
	SourcePath                       // a watched file
)

// Source is one ConfigSource.
type Source struct {
	Kind SourceKind
	// API for SourceGRPC.
	API *API
	// Path and WatchedDirectory for SourcePath; WatchedDirectory is "" when the file itself is watched.
	Path, WatchedDirectory string
	// InitialFetchTimeout: 15 s by default, 0 waits for ever.
	InitialFetchTimeout time.Duration
}

// API is one ApiConfigSource.
type API struct {
	Delta bool
	// Aggregated (AGGREGATED_GRPC, AGGREGATED_DELTA_GRPC): all types from this server share one ADS stream. Envoy's parser names these API
	// types and then refuses them; always true for ads_config.
	Aggregated bool
	// Services in order of preference (Envoy uses the first; the second is its fail-over).
	Services []GRPCService
	// REST: the service, one cluster, is polled over HTTP each RefreshDelay; RequestTimeout bounds one request, 1 s by default.
	REST                         bool
	RefreshDelay, RequestTimeout time.Duration
	// NodeInEvery: the node goes into every SotW request (set_node_on_first_message_only is false).
	NodeInEvery bool
}

// GRPCService names a gRPC server.
type GRPCService struct {
	// Cluster is the bootstrap cluster of an envoy_grpc service, nil for google_grpc.
	Cluster *clusterv3.Cluster
	// Target is the target_uri of a google_grpc service.
	Target string
	// SSL is TLS to the target of a google_grpc service, nil for plain text.
	SSL *corev3.GrpcService_GoogleGrpc_SslCredentials
	// TargetName is the name that the target must prove over TLS and that it is asked for (SNI), if not its host: grpc.ssl_target_name_override of a
	// google_grpc service, or else its grpc.default_authority.
	TargetName string
	// Name is the cluster name or the stat_prefix: for messages and stats.
	Name string
	// Authority overrides the :authority header; "" means the cluster name or the target.
	Authority string
	// Secrets are the static ones, which the cluster's transport socket may name.
	Secrets []*tlsv3.Secret
	// Metadata is sent with each stream.
	Metadata map[string]string
}

// Admin is the admin listener.
type Admin struct {
	// Network is "tcp" or "unix"; "" when there is no admin listener.
	Network string
	// Address is host:port, or the path of the socket ("@name" for an abstract one).
	Address string
	// Mode of a unix socket; 0 leaves it to the umask.
	Mode uint32
	// AccessLog as configured; access_log_path is in it as a file log without a typed_config when only that is set.
	AccessLog     []*accesslogv3.AccessLog
	AccessLogPath string
	// AllowPaths limits the paths served when not empty.
	AllowPaths []*matcherv3.StringMatcher
}

// RuntimeLayer is one layer of the runtime, lowest first.
type RuntimeLayer struct {
	Name string
	// Static values; nil for the other kinds.
	Static *structpb.Struct
	// RTDS is where the values of a layer over xDS come from, nil for the other kinds; Resource is its name there.
	RTDS     *Source
	Resource string
	// Admin: the layer that /runtime_modify writes.
	Admin bool
}

// Config is a loaded bootstrap. Immutable by convention after Load.
type Config struct {
	// Proto is the merged message, with the overrides of the command line in its node.
	Proto *bootstrapv3.Bootstrap
	// Node is what is sent to control planes: Proto's node (the same message) with user agent and build version filled in. The owner may
	// add extensions before the first stream opens.
	Node  *corev3.Node
	Admin Admin
	// ADS, LDS and CDS are nil when not configured.
	ADS      *API
	LDS, CDS *Source
	// Runtime layers, lowest first. None without layered_runtime; /runtime_modify then has no layer to write to.
	Runtime []RuntimeLayer
	// StatsFlushInterval is 5 s by default.
	StatsFlushInterval time.Duration
	// MaxDownstreamConnections of the overload manager; 0 = no limit.
	MaxDownstreamConnections int64
	// InternalBuffer is buffer_size_kb of envoy.bootstrap.internal_listener, in bytes; 0 = the default.
	InternalBuffer int
	// Warnings are fields without effect and features that wait for a later issue, with their paths.
	Warnings []registry.Finding
}

// Listeners returns the static listeners.
func (c *Config) Listeners() []*listenerv3.Listener {
	return c.Proto.GetStaticResources().GetListeners()
}

// Clusters returns the static clusters.
func (c *Config) Clusters() []*clusterv3.Cluster { return c.Proto.GetStaticResources().GetClusters() }

// Cluster returns a static cluster by name, or nil.
func (c *Config) Cluster(name string) *clusterv3.Cluster {
	for _, cl := range c.Clusters() {
		if cl.GetName() == name {
			return cl
		}
	}
	return nil
}

// Load reads, merges, checks and digests the bootstrap. On failure the error joins every fault found, each with its field path; with
// registry.Flatten it can be listed line by line. A bootstrap that could be read is returned with its error, so that the resources in it can be
// checked too; it must not be run.
func Load(o Options) (*Config, error) {
	b := &builder{allowUnknown: o.AllowUnknown}
	p, err := b.load(o)
	if err != nil {
		return nil, err
	}
	if len(b.errs) > 0 {
		return nil, errors.Join(b.errs...)
	}
	c := &Config{Proto: p, StatsFlushInterval: 5 * time.Second}
	override(p, o)
	d := digester{c: c, warnings: b.warnings}
	d.check(o)
	d.digest()
	c.Warnings = d.warnings
	return c, errors.Join(d.errs...)
}

func (b *builder) load(o Options) (*bootstrapv3.Bootstrap, error) {
	p := &bootstrapv3.Bootstrap{}
	data := o.Data
	if data == nil && o.Path != "" {
		var err error
		if data, err = readFile(o.Path); err != nil {
			return nil, err
		}
	}
	if data == nil && o.ConfigYAML == "" {
		return nil, errors.New("no configuration: give a bootstrap file (-c) or --config-yaml")
	}
	if data != nil {
		if err := b.document(p, data, FormatOf(o.Path)); err != nil {
			return nil, fmt.Errorf("%s: %w", orDefault(o.Path, "bootstrap"), err)
		}
	}
	if o.ConfigYAML != "" {
		over := &bootstrapv3.Bootstrap{}
		if err := b.document(over, []byte(o.ConfigYAML), YAML); err != nil {
			return nil, fmt.Errorf("--config-yaml: %w", err)
		}
		proto.Merge(p, over)
	}
	return p, nil
}

func readFile(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("bootstrap file: %w", err)
	}
	if st.Size() > FileMax {
		return nil, fmt.Errorf("%s: %d bytes are more than the limit of %d", path, st.Size(), FileMax)
	}
	return os.ReadFile(path)
}

// Unmarshal reads any API message from a document with the same rules as the bootstrap: path_config_source files hold a DiscoveryResponse.
// name decides the format by its extension. Unknown fields are accepted, as in dynamic resources. Every error has its field path.
func Unmarshal(name string, data []byte, m proto.Message) error {
	b := &builder{allowUnknown: true}
	if err := b.document(m, data, FormatOf(name)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return errors.Join(b.errs...)
}

func (b *builder) document(p proto.Message, data []byte, f Format) error {
	var tree any
	var err error
	switch f {
	case Binary:
		if err := proto.Unmarshal(data, p); err != nil {
			return fmt.Errorf("malformed protobuf: %s", protoReason(err))
		}
		return nil
	case TextProto:
		if err := (prototext.UnmarshalOptions{DiscardUnknown: b.allowUnknown}).Unmarshal(data, p); err != nil {
			return fmt.Errorf("malformed text protobuf: %s", strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: "))
		}
		return nil
	case JSON:
		tree, err = parseJSON(data)
	default:
		tree, err = parseYAML(data)
	}
	if err != nil {
		return err
	}
	if tree == nil {
		return errors.New("the document is empty")
	}
	b.message(p.ProtoReflect(), tree, "", 0)
	return nil
}

// override applies --service-node, --service-cluster and --service-zone, as Envoy's LocalInfo does.
func override(p *bootstrapv3.Bootstrap, o Options) {
	if p.Node == nil {
		p.Node = &corev3.Node{}
	}
	if o.ServiceNode != "" {
		p.Node.Id = o.ServiceNode
	}
	if o.ServiceCluster != "" {
		p.Node.Cluster = o.ServiceCluster
	}
	if o.ServiceZone != "" {
		if p.Node.Locality == nil {
			p.Node.Locality = &corev3.Locality{}
		}
		p.Node.Locality.Zone = o.ServiceZone
	}
}

// nodeOf completes the node with what Envoy adds. The user agent says envoy and the version whose API is implemented, because control
// planes decide by it which features to send; the build metadata says who really speaks.
func nodeOf(p *bootstrapv3.Bootstrap) *corev3.Node {
	n := proto.Clone(p.GetNode()).(*corev3.Node)
	n.UserAgentName = "envoy"
	n.UserAgentVersionType = &corev3.Node_UserAgentBuildVersion{UserAgentBuildVersion: &corev3.BuildVersion{
		Version:  &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 40},
		Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{"build.type": structpb.NewStringValue("sidecar")}},
	}}
	return n
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}

// SPDX-License-Identifier: Apache-2.0

package routeconfig

import "google.golang.org/protobuf/proto"

func marshal(m proto.Message) ([]byte, error)   { return proto.Marshal(m) }
func unmarshal(b []byte, m proto.Message) error { return proto.Unmarshal(b, m) }

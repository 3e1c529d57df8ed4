// SPDX-License-Identifier: Apache-2.0

//go:build race

package conn

// raced tells that sync.Pool, which crypto/tls uses, drops what it gets at random.
const raced = true

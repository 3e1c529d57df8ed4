// SPDX-License-Identifier: Apache-2.0

// Package inspect recognises protocols from the first bytes of a connection: what the listener filters tls_inspector, http_inspector and
// proxy_protocol do. Each function takes the bytes received so far, always from the first one, and returns a Verdict. Nothing is kept between calls
// and nothing allocated. A verdict other than NeedMore holds whatever bytes follow, so it does not matter how the bytes were cut.
package inspect

// Verdict is what the bytes seen so far allow to say.
type Verdict uint8

// The verdicts.
const (
	NeedMore Verdict = iota
	Match
	NoMatch // another protocol
	Reject  // this protocol, but malformed or beyond a limit
)

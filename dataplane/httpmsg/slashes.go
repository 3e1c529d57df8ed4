// SPDX-License-Identifier: Apache-2.0

package httpmsg

// EscapedSlashes is path_with_escaped_slashes_action.
type EscapedSlashes uint8

// The actions; IMPLEMENTATION_SPECIFIC_DEFAULT is SlashKeep.
const (
	SlashKeep EscapedSlashes = iota
	SlashReject
	SlashUnescapeRedirect
	SlashUnescapeForward
)

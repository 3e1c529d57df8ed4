// SPDX-License-Identifier: Apache-2.0

package match

// Header is a compiled HeaderMatcher.
type Header struct{}

// SPDX-License-Identifier: Apache-2.0

package policy

import "time"

// Clock gives the wall time; workers pass their loop's, tests their own. Nothing here reads a clock by itself.
type Clock func() time.Time

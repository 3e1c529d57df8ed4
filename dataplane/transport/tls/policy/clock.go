// SPDX-License-Identifier: Apache-2.0

package policy

import "time"

// Clock gives the wall time; workers pass their loop's, tests their own. Nothing here reads a clock by itself.
type Clock func() time.Time

// ClockOf makes a Clock of Unix nanoseconds.
func ClockOf(wall func() int64) Clock {
	return func() time.Time { return time.Unix(0, wall()) }
}

// SPDX-License-Identifier: Apache-2.0

package loop

import "time"

// Date is the current time as an HTTP date (RFC 9110 section 5.6.7), refreshed at most once a second.
func (l *Loop) Date() []byte {
	if s := l.wall / 1e9; s != l.dateSec {
		l.dateSec = s
		l.date = time.Unix(s, 0).UTC().AppendFormat(l.date[:0], "Mon, 02 Jan 2006 15:04:05 GMT")
	}
	return l.date
}

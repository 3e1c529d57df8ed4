// SPDX-License-Identifier: Apache-2.0

package accesslog

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// timeFormat is a compiled strftime pattern with Envoy's additions: %s (Unix seconds), %f and %1f…%9f (digits of the second's fraction), and
// with the %E forms of Envoy's time library (%E3S, %E*S, %Ez, %E4Y). Immutable.
type timeFormat struct {
	parts []timePart
	local bool
	// plain is set for defaultTime in UTC, which nearly every format has: it is printed without the calendar machinery.
	plain bool
}

type timePart struct {
	verb  byte // 0: literal
	mod   byte // 'E' when written with it
	flag  byte // '-', '_', '0' or '^' of GNU strftime
	width int  // digits for f and S; -1 is "as many as needed"
	lit   string
}

var newlineVerb = regexp.MustCompile(`%[-_0^#]*[1-9]*(E|O)?n`)

// defaultTime is what START_TIME prints without parameters.
const defaultTime = "%Y-%m-%dT%H:%M:%E3SZ"

func compileTime(text string, local bool) (*timeFormat, error) {
	if newlineVerb.MatchString(text) {
		return nil, errors.New("invalid header configuration: format string contains newline")
	}
	if text == "" {
		text = defaultTime
		if local {
			text = "%Y-%m-%dT%H:%M:%E3S%z"
		}
	}
	f := &timeFormat{local: local, plain: !local && text == defaultTime}
	for text != "" {
		i := strings.IndexByte(text, '%')
		if i < 0 || i == len(text)-1 {
			f.lit(text)
			break
		}
		f.lit(text[:i])
		p, n := parseVerb(text[i+1:])
		if p.verb == 0 {
			f.lit(text[i : i+1+n])
		} else {
			f.parts = append(f.parts, p)
		}
		text = text[i+1+n:]
	}
	return f, nil
}

func (f *timeFormat) lit(s string) {
	if s == "" {
		return
	}
	if n := len(f.parts); n > 0 && f.parts[n-1].verb == 0 {
		f.parts[n-1].lit += s
		return
	}
	f.parts = append(f.parts, timePart{lit: s})
}

const plainVerbs = "aAbBcCdDeFgGhHIjklmMnprRsStTuUVwWxXyYzZ%"

// parseVerb reads what follows a '%'; the verb is 0 for what is not a verb, which is then printed as it stands.
func parseVerb(s string) (timePart, int) {
	switch c := s[0]; {
	case c == 'f':
		return timePart{verb: 'f', width: 9}, 1
	case c >= '1' && c <= '9' && len(s) > 1 && s[1] == 'f':
		return timePart{verb: 'f', width: int(c - '0')}, 2
	case c >= '1' && c <= '9' && len(s) > 1 && s[1] == 's':
		return timePart{verb: 's'}, 2
	case strings.IndexByte("-_0^", c) >= 0 && len(s) > 1 && strings.IndexByte(plainVerbs, s[1]) >= 0 && s[1] != 's':
		return timePart{verb: s[1], flag: c}, 2
	case c == 'E' && len(s) > 1:
		switch {
		case s[1] == 's':
			return timePart{verb: 's'}, 2
		case s[1] == 'z':
			return timePart{verb: 'z', mod: 'E'}, 2
		case s[1] == 'T':
			return timePart{verb: 'E', lit: "T"}, 2
		case s[1] == '*' && len(s) > 2 && (s[2] == 'S' || s[2] == 'f' || s[2] == 'z'):
			return timePart{verb: s[2], mod: 'E', width: -1}, 3
		case s[1] >= '0' && s[1] <= '9' && len(s) > 2 && (s[2] == 'S' || s[2] == 'f'):
			return timePart{verb: s[2], mod: 'E', width: int(s[1] - '0')}, 3
		case strings.HasPrefix(s[1:], "4Y"):
			return timePart{verb: 'Y', mod: 'E'}, 3
		case strings.IndexByte("cCxXyY", s[1]) >= 0:
			return timePart{verb: s[1]}, 2
		}
	case c == 'O' && len(s) > 1 && strings.IndexByte("deHImMSuUVwWy", s[1]) >= 0:
		return timePart{verb: s[1]}, 2
	case strings.IndexByte(plainVerbs, c) >= 0:
		return timePart{verb: c}, 1
	}
	return timePart{}, 1
}

// append prints the time ns (Unix nanoseconds); c may be nil. It allocates nothing.
func (f *timeFormat) append(b []byte, ns int64, c *Clock) []byte {
	if f.plain && ns >= 0 {
		if c == nil {
			c = &Clock{}
		}
		return c.append(b, uint64(ns))
	}
	return f.appendTime(b, time.Unix(0, ns))
}

// appendTime is append for times that nanoseconds may not reach.
func (f *timeFormat) appendTime(b []byte, t time.Time) []byte {
	if f.local {
		t = t.Local()
	} else {
		t = t.UTC()
	}
	for i := range f.parts {
		b = f.parts[i].append(b, t)
	}
	return b
}

// Clock keeps the text of a second: most lines are about the same one as the line before. The zero value is ready. Owner: one worker.
type Clock struct {
	second uint64
	text   [len("2006-01-02T15:04:05.000Z")]byte // the milliseconds are those of the last line
}

// append prints ns as defaultTime says.
func (c *Clock) append(b []byte, ns uint64) []byte {
	second := ns / 1e9
	if second != c.second || c.text[0] == 0 {
		c.set(second)
	}
	milli := uint32((ns - second*1e9) / 1e6)
	c.text[20], c.text[21], c.text[22] = byte('0'+milli/100), byte('0'+milli/10%10), byte('0'+milli%10)
	return append(b, c.text[:]...)
}

// set prints a second. The date is that of the proleptic Gregorian calendar, counted in years that begin in March and eras of 400 years, so that leap days
// come last.
func (c *Clock) set(seconds uint64) {
	const secondsPerDay, daysPerEra, daysToEpoch = 86400, 146097, 719468
	clock, days := seconds%secondsPerDay, seconds/secondsPerDay+daysToEpoch
	era, inEra := days/daysPerEra, days%daysPerEra
	yearOfEra := (inEra - inEra/1460 + inEra/36524 - inEra/146096) / 365
	inYear := inEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	march := (5*inYear + 2) / 153 // months since March
	year, month, day := era*400+yearOfEra, march+3, inYear-(153*march+2)/5+1
	if march >= 10 {
		year, month = year+1, march-9
	}
	hour, minute, second := clock/3600, clock/60%60, clock%60
	c.second = seconds
	t := &c.text
	pair(t[0:2], year/100)
	pair(t[2:4], year%100)
	pair(t[5:7], month)
	pair(t[8:10], day)
	pair(t[11:13], hour)
	pair(t[14:16], minute)
	pair(t[17:19], second)
	t[4], t[7], t[10], t[13], t[16], t[19], t[23] = '-', '-', 'T', ':', ':', '.', 'Z'
}

// pair writes v, 0 to 99, as two digits into d.
func pair(d []byte, v uint64) {
	tens := v * 103 >> 10 // v/10 in this range
	d[0], d[1] = byte('0'+tens), byte('0'+v-tens*10)
}

func (p *timePart) append(b []byte, t time.Time) []byte {
	switch p.verb {
	case 0:
		return append(b, p.lit...)
	case '%':
		return append(b, '%')
	case 'E':
		return append(b, p.lit...)
	case 'f':
		return appendFraction(b, t.Nanosecond(), p.width)
	case 'S':
		b = pad(b, t.Second(), 2, '0')
		if p.mod == 'E' && p.width != 0 {
			if p.width < 0 && t.Nanosecond() == 0 {
				return b
			}
			b = appendFraction(append(b, '.'), t.Nanosecond(), p.width)
		}
		return b
	case 'z':
		return appendZone(b, t, p.mod == 'E', p.width < 0)
	case 's':
		return strconv.AppendInt(b, t.Unix(), 10)
	}
	from := len(b)
	b = p.appendDate(b, t)
	switch p.flag {
	case '^':
		for i := from; i < len(b); i++ {
			if b[i] >= 'a' && b[i] <= 'z' {
				b[i] -= 'a' - 'A'
			}
		}
	case '-':
		n := from
		for n < len(b)-1 && (b[n] == '0' || b[n] == ' ') {
			n++
		}
		b = append(b[:from], b[n:]...)
	case '_', '0':
		fill := fillOf(p.flag)
		for i := from; i < len(b)-1 && (b[i] == '0' || b[i] == ' '); i++ {
			b[i] = fill
		}
	}
	return b
}

func fillOf(flag byte) byte {
	if flag == '_' {
		return ' '
	}
	return '0'
}

// appendDate holds the calendar verbs of strftime(3) in the C locale; one switch over the letters is the plainest form, hence its length.
func (p *timePart) appendDate(b []byte, t time.Time) []byte {
	year, month, day := t.Date()
	switch p.verb {
	case 'a':
		return append(b, t.Weekday().String()[:3]...)
	case 'A':
		return append(b, t.Weekday().String()...)
	case 'b', 'h':
		return append(b, month.String()[:3]...)
	case 'B':
		return append(b, month.String()...)
	case 'c':
		return t.AppendFormat(b, "Mon Jan _2 15:04:05 2006")
	case 'C':
		return pad(b, year/100, 2, '0')
	case 'd':
		return pad(b, day, 2, '0')
	case 'D', 'x':
		return t.AppendFormat(b, "01/02/06")
	case 'e':
		return pad(b, day, 2, ' ')
	case 'F':
		return t.AppendFormat(b, "2006-01-02")
	case 'g':
		y, _ := t.ISOWeek()
		return pad(b, y%100, 2, '0')
	case 'G':
		y, _ := t.ISOWeek()
		return strconv.AppendInt(b, int64(y), 10)
	case 'H':
		return pad(b, t.Hour(), 2, '0')
	case 'I':
		return pad(b, hour12(t), 2, '0')
	case 'j':
		return pad(b, t.YearDay(), 3, '0')
	case 'k':
		return pad(b, t.Hour(), 2, ' ')
	case 'l':
		return pad(b, hour12(t), 2, ' ')
	case 'm':
		return pad(b, int(month), 2, '0')
	case 'M':
		return pad(b, t.Minute(), 2, '0')
	case 'p':
		return t.AppendFormat(b, "PM")
	case 'r':
		return t.AppendFormat(b, "03:04:05 PM")
	case 'R':
		return t.AppendFormat(b, "15:04")
	case 't':
		return append(b, '\t')
	case 'T', 'X':
		return t.AppendFormat(b, "15:04:05")
	case 'u':
		return strconv.AppendInt(b, int64((t.Weekday()+6)%7+1), 10)
	case 'U':
		return pad(b, (t.YearDay()+6-int(t.Weekday()))/7, 2, '0')
	case 'V':
		_, w := t.ISOWeek()
		return pad(b, w, 2, '0')
	case 'w':
		return strconv.AppendInt(b, int64(t.Weekday()), 10)
	case 'W':
		return pad(b, (t.YearDay()+6-int((t.Weekday()+6)%7))/7, 2, '0')
	case 'y':
		return pad(b, year%100, 2, '0')
	case 'Y':
		if p.mod == 'E' {
			return pad(b, year, 4, '0')
		}
		return strconv.AppendInt(b, int64(year), 10)
	case 'Z':
		z, _ := t.Zone()
		return append(b, z...)
	}
	return b
}

func hour12(t time.Time) int { return (t.Hour()+11)%12 + 1 }

func pad(b []byte, v, width int, fill byte) []byte {
	var tmp [20]byte
	d := strconv.AppendInt(tmp[:0], int64(v), 10)
	for n := len(d); n < width; n++ {
		b = append(b, fill)
	}
	return append(b, d...)
}

// appendFraction prints the first width digits of the fraction of the second; width < 0 prints all up to the last that is not 0.
func appendFraction(b []byte, ns, width int) []byte {
	var d [9]byte
	for i := 8; i >= 0; i-- {
		d[i] = byte('0' + ns%10)
		ns /= 10
	}
	if width < 0 {
		width = 9
		for width > 1 && d[width-1] == '0' {
			width--
		}
	}
	return append(b, d[:min(width, 9)]...)
}

func appendZone(b []byte, t time.Time, colon, seconds bool) []byte {
	_, off := t.Zone()
	sign := byte('+')
	if off < 0 {
		sign, off = '-', -off
	}
	b = pad(append(b, sign), off/3600, 2, '0')
	if colon {
		b = append(b, ':')
	}
	b = pad(b, off/60%60, 2, '0')
	if seconds {
		b = pad(append(b, ':'), off%60, 2, '0')
	}
	return b
}

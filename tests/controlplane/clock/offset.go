// Joins Go's package time when tests/setup/install.sh builds the control plane: the variable PORTCULLIS_CLOCK_OFFSET sets
// the program's clock that many seconds ahead (or, with a minus, behind). Static programs take their time from the kernel,
// so no preloaded library can do that for them. Without the variable, the clock is the machine's.

//go:build ignore

package time

import "syscall"

var clockOffset = readClockOffset()

func readClockOffset() int64 {
	text, _ := syscall.Getenv("PORTCULLIS_CLOCK_OFFSET")
	negative := len(text) > 0 && text[0] == '-'
	if negative {
		text = text[1:]
	}
	var seconds int64
	for _, digit := range []byte(text) {
		if digit < '0' || digit > '9' || seconds > 1<<40 {
			panic("PORTCULLIS_CLOCK_OFFSET must be a whole number of seconds")
		}
		seconds = seconds*10 + int64(digit-'0')
	}
	if negative {
		return -seconds
	}
	return seconds
}

package report

import (
	"fmt"
	"strconv"
	"time"
)

// FormatOctets formats a number of octets with three digits and a unit, a power of 1000.
func FormatOctets(n uint64) string {
	if n < 1000 {
		return strconv.FormatUint(n, 10) + " B"
	}
	f := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB", "EB"} {
		if f /= 1000; f < 999.5 {
			digits := 2
			switch {
			case f >= 99.95:
				digits = 0
			case f >= 9.995:
				digits = 1
			}
			return strconv.FormatFloat(f, 'f', digits, 64) + " " + unit
		}
	}
	return strconv.FormatFloat(f, 'g', 3, 64) + " EB" // not reached: 2^64 is 18.4 EB
}

// FormatDuration formats a duration as seconds, minutes, hours or days; a negative duration is "-".
func FormatDuration(d time.Duration) string {
	switch {
	case d < 0:
		return "-"
	case d < 59950*time.Millisecond:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	}
	s := int(d.Round(time.Second) / time.Second)
	switch {
	case s < 3600:
		return fmt.Sprintf("%d:%02d min", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%d:%02d:%02d h", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d d %d:%02d h", s/86400, s/3600%24, s/60%60)
}

package console

import "log/slog"

// WithoutTime is a ReplaceAttr of slog.HandlerOptions that leaves out the time, for a log on a terminal.
func WithoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

package enrich

import (
	"testing"
	"time"

	"weir/internal/annotate/rdns"
)

// The names of a connection that was open at a restart are known to no process that runs.
func TestTheNamesOfConnectionsOpenAtARestartAreWantedAgain(t *testing.T) {
	c := cluster(t)
	flows := newFlowWriter(t, c)
	conf := config(c, "a")
	conf.Annotate.DNS = rdns.Config{
		Enabled: true, Servers: []string{"127.0.0.1:1"}, Timeout: 100 * time.Millisecond, Rate: 100, InFlight: 8, Queue: 100, CacheSize: 1000,
	}
	flows.put(0, time.Now(), []byte{8, 8, 8, 8}, 40001)
	w, stop := start(t, conf, time.Now)
	eventually(t, "the flow is taken", func() bool { return w.Stats().Flows == 1 })
	stop()
	w, stop = start(t, conf, time.Now)
	defer stop()
	// No further flow arrives: the connection may end without a flow.
	eventually(t, "both addresses are wanted", func() bool { return w.annotator.Names.Stats().Wanted == 2 })
}

package enrich

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// The second flow ends the first connection and is committed with a restore point behind the first piece of state: Kafka
// must not keep that piece.
func TestStateThatNoRestoreNeedsIsDeleted(t *testing.T) {
	c := cluster(t)
	flows := newFlowWriter(t, c)
	w, stop := start(t, config(c, "a"), time.Now)
	defer stop()
	at := time.Now().Add(-time.Hour)
	for i := range 20 {
		flows.put(0, at.Add(time.Duration(i)*5*time.Minute), []byte{8, 8, 8, byte(i)}, 40001)
		eventually(t, "the flow is taken", func() bool { return w.Stats().Flows == uint64(i+1) })
	}
	adm := kadm.NewClient(flows.cl)
	eventually(t, "the log of partition 0 begins later", func() bool {
		starts, err := adm.ListStartOffsets(t.Context(), "t.pairing")
		if err != nil {
			t.Fatal(err)
		}
		first, ok := starts.Lookup("t.pairing", 0)
		return ok && first.Err == nil && first.Offset > 0
	})
}

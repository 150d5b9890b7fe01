package kafka

import (
	"errors"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The end of a bounded read is found from the offsets of records; not every offset has one.
func TestTheEndOfABoundedReadIsReachedInEachPartition(t *testing.T) {
	for _, tt := range []struct {
		name   string
		ends   endOffsets
		read   []*kgo.Record
		taken  []int64
		unread []int32
	}{
		{"the last record", endOffsets{0: 3}, []*kgo.Record{{Offset: 1}, {Offset: 2}}, []int64{1, 2}, nil},
		{"not yet", endOffsets{0: 4}, []*kgo.Record{{Offset: 1}, {Offset: 2}}, []int64{1, 2}, []int32{0}},
		{"a gap over the end", endOffsets{0: 3}, []*kgo.Record{{Offset: 1}, {Offset: 5}, {Offset: 6}}, []int64{1}, nil},
		{"two partitions", endOffsets{0: 2, 1: 9}, []*kgo.Record{{Offset: 1}, {Partition: 1, Offset: 7}}, []int64{1, 7}, []int32{1}},
		{"a partition that is not read", endOffsets{1: 2}, []*kgo.Record{{Offset: 0}}, nil, []int32{1}},
	} {
		var taken []int64
		for _, r := range tt.read {
			if tt.ends.take(r) {
				taken = append(taken, r.Offset)
			}
		}
		var unread []int32
		for p := range tt.ends {
			unread = append(unread, p)
		}
		if !slices.Equal(taken, tt.taken) || !slices.Equal(unread, tt.unread) {
			t.Errorf("%s: want offsets %v and partitions %v left, got %v and %v", tt.name, tt.taken, tt.unread, taken, unread)
		}
	}
}

// Records of the old topic are missing and those of the new one were not asked for: that is not the whole topic.
func TestReadingAWholeTopicFailsWhenItIsRecreatedMeanwhile(t *testing.T) {
	ctx := testContext(t)
	c := startFake(t)
	addr := c.ListenAddrs()[0]
	adm := makeTopic(ctx, t, addr, "x", 1)
	putTo(ctx, t, addr, "x", 0, "a", "b")
	answerFetchesOf(c, c.TopicInfo("x").TopicID)
	listed := newTally[struct{}]() // by the client for its start, and four times by ReadWhole
	c.ControlKey(int16(kmsg.ListOffsets), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		listed.add(struct{}{})
		return nil, nil, false
	})
	ended := make(chan error, 1)
	go func() {
		ended <- ReadWhole(ctx, config(addr), "x", func(r Record) { t.Errorf("read: want nothing, got %q", r.Value) })
	}()
	listed.wait(ctx, t, "all lists of offsets", atLeast[struct{}](5))
	remake(ctx, t, adm, "x", 1)
	// A check between the deletion and the creation finds no topic.
	if err := <-ended; !errors.Is(err, ErrTopicChanged) && !topicIsGone(err) {
		t.Errorf("want %v or an unknown topic, got %v", ErrTopicChanged, err)
	}
}

package kafka

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestMissingTopicsAreCreatedAsTheTableSays(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	ensure(ctx, t, b.Addr(), Flows, Templates, Undecoded, Exporters, Pairing, Connections)
	adm := admin(t, b.Addr())
	got := map[string]map[string]string{}
	rs, err := adm.DescribeTopicConfigs(ctx, "t.flows", "t.templates", "t.undecoded", "t.exporters", "t.pairing", "t.connections")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rs {
		got[r.Name] = map[string]string{}
		for _, c := range r.Configs {
			if c.Source == kmsg.ConfigSourceDynamicTopicConfig {
				got[r.Name][c.Key] = c.MaybeValue()
			}
		}
	}
	ts, err := adm.ListTopics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range ts {
		got[d.Topic]["partitions"] = strings.Repeat("|", len(d.Partitions))
	}
	const hour = "3600000"
	want := map[string]map[string]string{
		"t.flows":       {"partitions": "|||", "cleanup.policy": "delete", "retention.ms": "86400000", "message.timestamp.type": "CreateTime"},
		"t.connections": {"partitions": "|||", "cleanup.policy": "delete", "retention.ms": "604800000", "message.timestamp.type": "CreateTime"},
		"t.undecoded":   {"partitions": "|||", "cleanup.policy": "delete", "retention.ms": "172800000", "message.timestamp.type": "CreateTime"},
		"t.exporters":   {"partitions": "|", "cleanup.policy": "compact,delete", "retention.ms": "604800000", "segment.ms": hour, "message.timestamp.type": "CreateTime"},
		"t.pairing": {"partitions": "|||", "cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", "segment.bytes": "16777216",
			"unclean.leader.election.enable": "false", "message.timestamp.type": "CreateTime"},
		"t.templates": {"partitions": "|", "cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1", "segment.ms": hour, "segment.bytes": "67108864",
			"max.compaction.lag.ms": "21600000", "delete.retention.ms": "86400000", "max.message.bytes": "131072",
			"unclean.leader.election.enable": "false", "message.timestamp.type": "CreateTime"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("topics (-want +got):\n%s", d)
	}
	ensure(ctx, t, b.Addr(), Flows, Templates, Undecoded, Exporters, Pairing, Connections)
}

func TestTopicsThatAreNotAsTheyShouldBeAreNamedTogether(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	adm := admin(t, b.Addr())
	policy := "delete"
	for topic, partitions := range map[string]int32{"t.flows": 6, "t.templates": 1, "t.pairing": 3} {
		if _, err := adm.CreateTopic(ctx, partitions, -1, map[string]*string{"cleanup.policy": &policy}, topic); err != nil {
			t.Fatal(err)
		}
	}
	for _, mode := range []string{"create", "verify"} {
		tc := topicConfig()
		tc.Mode = mode
		err := Ensure(ctx, config(b.Addr()), tc, nil, Flows, Templates, Pairing)
		wantNamed(t, err, []string{
			"t.flows has 6 partitions, want 3", "TOPIC_PARTITIONS=6",
			"t.templates has cleanup.policy=delete, want compact", "kafka-configs.sh", "--entity-name t.templates",
		})
		if strings.Contains(err.Error(), "t.pairing") {
			t.Errorf("a topic that is as it should be is named: %v", err)
		}
	}
	tc := topicConfig()
	tc.Mode = "off"
	if err := Ensure(ctx, config(b.Addr()), tc, nil, Flows, Templates, Pairing); err != nil {
		t.Errorf("mode off: want nothing verified, got %v", err)
	}
}

// A pairing topic that was created by hand has the broker's retention, or a guess. Kafka then deletes state
// while the flows after it are still there.
func TestAPairingTopicThatLosesStateIsRefused(t *testing.T) {
	const command = "kafka-configs.sh --alter --entity-type topics --entity-name t.pairing --add-config "
	for _, tt := range []struct {
		name, key, value string
		refused          bool
	}{
		{"an hour, flows are kept 24 h", "retention.ms", "3600000", true},
		{"one ms less than the flows", "retention.ms", "86399999", true},
		{"as long as the flows", "retention.ms", "86400000", false},
		{"the broker's default of a week", "retention.ms", "604800000", false},
		{"without limit", "retention.ms", "-1", false},
		{"1 GiB", "retention.bytes", "1073741824", true},
		{"no limit of octets", "retention.bytes", "-1", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := testContext(t)
			b := startBroker(t, "127.0.0.1:0")
			policy := "delete"
			configs := map[string]*string{"cleanup.policy": &policy, tt.key: &tt.value}
			if _, err := admin(t, b.Addr()).CreateTopic(ctx, 3, -1, configs, "t.pairing"); err != nil {
				t.Fatal(err)
			}
			err := Ensure(ctx, config(b.Addr()), topicConfig(), nil, Pairing)
			if tt.refused {
				wantNamed(t, err, []string{"t.pairing has " + tt.key + "=" + tt.value + ", want -1", command + tt.key + "=-1"})
			} else if err != nil {
				t.Errorf("want it accepted, got %v", err)
			}
		})
	}
}

func TestVerifyCreatesNothingAndSaysHow(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	tc := topicConfig()
	tc.Mode = "verify"
	wantNamed(t, Ensure(ctx, config(b.Addr()), tc, nil, Flows), []string{"t.flows does not exist", "--partitions 3", "--config retention.ms=86400000", "TOPIC_MODE=create"})
	ts, err := admin(t, b.Addr()).ListTopics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(ts) != 0 {
		t.Errorf("topics: want none, got %v", ts.Names())
	}
}

func TestATopicIsMissingOnlyOnceItWasMissedSeveralTimes(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	tc := topicConfig()
	tc.Mode = "verify"
	var once sync.Once
	err := Ensure(ctx, config(b.Addr()), tc, func(err error) { // as of a node that lags: it hears of the topic later
		wantNamed(t, err, []string{"t.flows does not exist"})
		once.Do(func() { ensure(ctx, t, b.Addr(), Flows) })
	}, Flows)
	if err != nil {
		t.Error(err)
	}
}

func TestAWrongModeOrTopicIsAnError(t *testing.T) {
	tc := topicConfig()
	wantNamed(t, Ensure(t.Context(), config("127.0.0.1:1"), tc, nil, Topic("flow")), []string{`"flow"`})
	tc.Mode = "maybe"
	wantNamed(t, Ensure(t.Context(), config("127.0.0.1:1"), tc, nil, Flows), []string{`TOPIC_MODE="maybe"`})
}

func TestKafkaAwayIsWaitedForAndToldAbout(t *testing.T) {
	ctx := testContext(t)
	addr := freeAddr(t)
	var once sync.Once
	var reported error
	err := Ensure(ctx, config(addr), topicConfig(), func(err error) {
		once.Do(func() {
			reported = err
			startBroker(t, addr)
		})
	}, Flows)
	if err != nil {
		t.Fatal(err)
	}
	wantNamed(t, reported, []string{addr, "connection refused"})
	ts, err := admin(t, addr).ListTopics(ctx, "t.flows")
	if err != nil || len(ts["t.flows"].Partitions) != 3 {
		t.Errorf("want t.flows with 3 partitions, got %v, %v", ts["t.flows"], err)
	}
}

func TestWaitingForKafkaEndsWithTheContextAndSaysWhy(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	err := Ensure(ctx, config(freeAddr(t)), topicConfig(), func(error) { cancel() }, Flows)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("want context.Canceled, got %v", err)
	}
}

func TestReplicasThatStartTogetherCreateTopicsOnce(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t, "127.0.0.1:0")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := Ensure(ctx, config(b.Addr()), topicConfig(), nil, Flows, Templates, Undecoded); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

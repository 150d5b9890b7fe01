package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"weir/internal/failure"
)

// Ensure creates what is missing of topics and verifies what exists, by
// tc.Mode. It waits for Kafka with backoff until ctx ends, telling status (may
// be nil) why it waits. A mismatch is an error that names the topic, what is and
// what should be; mismatches of several topics are reported together. A zero
// Mode is create; a zero Replication or retention is the broker's default.
func Ensure(ctx context.Context, c Config, tc TopicConfig, status func(error), topics ...Topic) error {
	switch tc.Mode = cmp.Or(tc.Mode, modeCreate); tc.Mode {
	case modeOff:
		return nil
	case modeCreate, modeVerify:
	default:
		return fmt.Errorf("TOPIC_MODE=%q: want create, verify or off", tc.Mode)
	}
	e := ensurer{c: &c, tc: &tc, todo: map[string]spec{}, missed: map[string]int{}}
	for _, t := range topics {
		s, err := tc.spec(t)
		if err != nil {
			return err
		}
		e.todo[tc.Name(t)] = s
	}
	cl, err := kgo.NewClient(append(c.as("topics").opts(),
		kgo.RequestRetries(2), kgo.RetryTimeout(5*time.Second), // the loop below goes on, and says why
		kgo.MetadataMinAge(50*time.Millisecond), // what was just created is looked at again at once
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	e.adm = kadm.NewClient(cl)
	return e.run(ctx, status)
}

// An ensurer works through the topics still to be verified.
type ensurer struct {
	c    *Config
	tc   *TopicConfig
	adm  *kadm.Client
	todo map[string]spec // by full name

	missed map[string]int // passes that did not see the topic, by full name
}

// surelyMissing is how many passes have to miss a topic that is only verified
// (together they take at least 0.6 s): a node that lags behind the others does
// not know a topic that was just created.
const surelyMissing = 5

func (e *ensurer) run(ctx context.Context, status func(error)) error {
	failures := failure.Repeats{Every: repeatWait}
	for try := 0; ; try++ {
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		wait, err := e.pass(attempt)
		cancel()
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("topics not verified: %w", errors.Join(ctx.Err(), wait))
		case err != nil:
			return err
		case wait == nil:
			return nil
		}
		if status != nil && failures.IsNew(wait, time.Now()) {
			status(wait)
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff(try)):
		}
	}
}

// repeatWait is how often the same reason to wait is told again.
const repeatWait = 30 * time.Second

// pass looks at all topics once. wait says why it has to be tried again, err
// what only a person can mend.
func (e *ensurer) pass(ctx context.Context) (wait, err error) {
	names := slices.Sorted(maps.Keys(e.todo))
	if len(names) == 0 {
		return nil, nil
	}
	found, err := e.adm.ListTopics(ctx, names...)
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("kafka lets this user not see (Describe) or not create topics among %s: %w", strings.Join(names, ", "), err), nil
	case err != nil:
		return fmt.Errorf("kafka at %s does not answer: %w", strings.Join(e.c.Brokers, ","), err), nil
	}
	var waits, errs []error
	unsure := false
	for _, name := range names {
		w, err := e.topic(ctx, name, found[name])
		waits, errs = append(waits, w), append(errs, err)
		if w == nil && err == nil {
			delete(e.todo, name)
		}
		unsure = unsure || w != nil && e.missed[name] > 0
	}
	if unsure { // what is wrong with several topics is told together
		return errors.Join(append(waits, errs...)...), nil
	}
	return errors.Join(waits...), errors.Join(errs...)
}

func (e *ensurer) topic(ctx context.Context, name string, is kadm.TopicDetail) (wait, err error) {
	should := e.todo[name]
	missing := is.Topic == "" || errors.Is(is.Err, kerr.UnknownTopicOrPartition)
	switch {
	case missing && e.tc.Mode == modeVerify:
		err := fmt.Errorf("topic %s does not exist: create it with %s, or set TOPIC_MODE=create", name, should)
		if e.missed[name]++; e.missed[name] < surelyMissing {
			return err, nil
		}
		return nil, err
	case missing:
		return e.create(ctx, name, should)
	case is.Err != nil:
		return judge(is.Err, "topic %s cannot be read: %w", name, is.Err)
	}
	var errs []error
	if n := int32(len(is.Partitions)); n != should.partitions { // a topic has few partitions
		errs = append(errs, fmt.Errorf("topic %s has %d partitions, want %d: %s", name, n, should.partitions, e.mendPartitions(name, n)))
	}
	wait, err = e.verifyConfigs(ctx, name, should)
	return wait, errors.Join(append(errs, err)...)
}

func (e *ensurer) mendPartitions(name string, n int32) string {
	if s := e.todo[name]; s.partitions == e.tc.Partitions && s.partitions != 1 {
		return fmt.Sprintf("the number is fixed for life; set TOPIC_PARTITIONS=%d if the other topics have as many, else start with another TOPIC_PREFIX", n)
	}
	return "delete the topic, or start with another TOPIC_PREFIX"
}

// create makes a topic; the next pass verifies it.
func (e *ensurer) create(ctx context.Context, name string, should spec) (wait, err error) {
	configs := make(map[string]*string, len(should.configs))
	for k, v := range should.configs {
		if v != "0" { // a zero retention: the broker's default
			configs[k] = &v
		}
	}
	resp, err := e.adm.CreateTopic(ctx, should.partitions, cmp.Or(e.tc.Replication, -1), configs, name)
	switch {
	case err == nil, errors.Is(err, kerr.TopicAlreadyExists): // another replica was first
		return fmt.Errorf("topic %s is being created", name), nil
	case resp.ErrMessage != "":
		return judge(err, "topic %s cannot be created: %w: %s", name, err, resp.ErrMessage)
	default:
		return judge(err, "topic %s cannot be created: %w", name, err)
	}
}

func (e *ensurer) verifyConfigs(ctx context.Context, name string, should spec) (wait, err error) {
	rs, err := e.adm.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return fmt.Errorf("settings of topic %s: %w", name, err), nil
	}
	r, err := rs.On(name, nil)
	if err == nil {
		err = r.Err
	}
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		e.warn("settings of a topic cannot be verified: grant DescribeConfigs", "topic", name, "err", err)
		return nil, nil
	case err != nil:
		return fmt.Errorf("settings of topic %s: %w", name, err), nil
	}
	var errs []error
	for _, is := range r.Configs {
		want, ok := should.configs[is.Key]
		got := is.MaybeValue()
		switch {
		case !ok || want == "0" || sameList(want, got):
		case is.Key == cleanupPolicy:
			errs = append(errs, mismatch(name, is.Key, got, want, "["+want+"]"))
		case should.deletesTooEarly(is.Key, got):
			errs = append(errs, fmt.Errorf("%w (Kafka would delete pairing state that enrich still needs)", mismatch(name, is.Key, got, want, want)))
		default:
			e.warn("a topic is set otherwise than Weir would", "topic", name, "setting", is.Key, "is", got, "should", want)
		}
	}
	return nil, errors.Join(errs...)
}

// mismatch returns an error that names a setting and the command that mends it; value
// is what that command sets.
func mismatch(topic, key, got, want, value string) error {
	return fmt.Errorf("topic %s has %s=%s, want %s: kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config %s=%s",
		topic, key, got, want, topic, key, value)
}

// deletesTooEarly reports whether a setting is a limit below the least one of s.
func (s *spec) deletesTooEarly(key, value string) bool {
	least, ok := s.least[key]
	n, err := strconv.ParseInt(value, 10, 64)
	return ok && err == nil && n >= 0 && n < least
}

// sameList compares comma-separated lists in any order.
func sameList(a, b string) bool {
	split := func(s string) []string {
		l := strings.Split(strings.ReplaceAll(s, " ", ""), ",")
		slices.Sort(l)
		return l
	}
	return slices.Equal(split(a), split(b))
}

func (e *ensurer) warn(msg string, args ...any) {
	if e.c.Log != nil {
		e.c.Log.Warn(msg, args...)
	}
}

// judge makes an error one that passes, or one that only a person can mend.
// Too few brokers for the replication factor passes: they may be starting.
func judge(cause error, format string, args ...any) (wait, err error) {
	e := fmt.Errorf(format, args...)
	for _, permanent := range []error{
		kerr.InvalidConfig, kerr.InvalidTopicException, kerr.InvalidPartitions, kerr.InvalidRequest, kerr.PolicyViolation,
	} {
		if errors.Is(cause, permanent) {
			return nil, e
		}
	}
	if errors.Is(cause, kerr.TopicAuthorizationFailed) || errors.Is(cause, kerr.ClusterAuthorizationFailed) {
		return nil, fmt.Errorf("%w: grant Create and Describe, or create it by hand and set TOPIC_MODE=verify", e)
	}
	return e, nil
}

// String is the spec as arguments of kafka-topics.sh.
func (s spec) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "--partitions %d", s.partitions)
	for _, k := range slices.Sorted(maps.Keys(s.configs)) {
		if v := s.configs[k]; v != "0" {
			fmt.Fprintf(&b, " --config %s=%s", k, v)
		}
	}
	return b.String()
}

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

// Ensure creates missing topics and verifies existing ones, as tc.Mode says. It waits for Kafka with back-off
// until ctx ends and passes the reason to status, which may be nil. A mismatch is an error that names the topic,
// the setting, its value and the wanted value; mismatches of several topics are joined into a single error. A zero
// Mode means create; a zero Replication or retention means the broker's default.
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
	cl, err := kgo.NewClient(append(c.withRole("topics").opts(),
		kgo.RequestRetries(2), kgo.RetryTimeout(5*time.Second), // the loop below goes on and reports the reason
		kgo.MetadataMinAge(50*time.Millisecond), // a topic that was just created is read again at once
	)...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer cl.Close()
	e.adm = kadm.NewClient(cl)
	return e.run(ctx, status)
}

// An ensurer creates and verifies the topics in todo. It is for one goroutine. Several replicas may run an ensurer at
// the same time: the creation of a topic by another replica counts as success, and each verifies what it finds.
type ensurer struct {
	c    *Config
	tc   *TopicConfig
	adm  *kadm.Client
	todo map[string]spec // by full name

	missed map[string]int // passes that did not see the topic, by full name
}

// surelyMissing is the number of passes that must miss a topic in mode verify before it counts as missing;
// together they take at least 0.6 s. A broker that lags behind does not know a topic that was just created.
const surelyMissing = 5

// run repeats pass, with back-off, until all topics are verified, a permanent error occurs, or ctx ends. A pass takes
// 10 s at most: a request that no broker answers must not keep the reason from status.
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

// repeatWait is the time after which the same reason for waiting is reported again.
const repeatWait = 30 * time.Second

// pass reads the state of all topics in todo once and removes those that are as wanted. wait is a passing
// failure, for which the caller tries again; err is permanent. Both may be set: some topics wait while others cannot
// be used. A topic that was created is verified by the next pass, since a broker may apply defaults of its own.
func (e *ensurer) pass(ctx context.Context) (wait, err error) {
	names := slices.Sorted(maps.Keys(e.todo))
	if len(names) == 0 {
		return nil, nil
	}
	found, err := e.adm.ListTopics(ctx, names...)
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		return fmt.Errorf("kafka denies this user the ACL Describe or Create on topics among %s: %w",
			strings.Join(names, ", "), err), nil
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
	if unsure { // report the faults of all topics together
		return errors.Join(append(waits, errs...)...), nil
	}
	return errors.Join(waits...), errors.Join(errs...)
}

// topic verifies a topic, given its state as the cluster lists it, or creates it. Its results are those of pass. The
// number of partitions must be equal: with more, keys would move to other partitions, and the order of the records of
// an exporter or of a connection would be lost.
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
		return classifyError(is.Err, "topic %s cannot be read: %w", name, is.Err)
	}
	var errs []error
	if n := int32(len(is.Partitions)); n != should.partitions { // a topic has few partitions
		errs = append(errs, fmt.Errorf("topic %s has %d partitions, want %d: %s",
			name, n, should.partitions, e.partitionsRemedy(name, n)))
	}
	wait, err = e.verifyConfigs(ctx, name, should)
	return wait, errors.Join(append(errs, err)...)
}

// partitionsRemedy returns the advice for a topic with n partitions that should have another number.
func (e *ensurer) partitionsRemedy(name string, n int32) string {
	if s := e.todo[name]; s.partitions == e.tc.Partitions && s.partitions != 1 {
		return fmt.Sprintf("the number is fixed for life; set TOPIC_PARTITIONS=%d if the other topics have as many, "+
			"else start with another TOPIC_PREFIX", n)
	}
	return "delete the topic, or start with another TOPIC_PREFIX"
}

// create creates a topic. It returns a wait, since the next pass must verify the topic. The controller answers before
// all brokers know the topic: for a moment others may still say that it does not exist.
func (e *ensurer) create(ctx context.Context, name string, should spec) (wait, err error) {
	configs := make(map[string]*string, len(should.configs))
	for k, v := range should.configs {
		if v != "0" { // a zero retention: the broker's default
			configs[k] = &v
		}
	}
	resp, err := e.adm.CreateTopic(ctx, should.partitions, cmp.Or(e.tc.Replication, -1), configs, name)
	switch {
	case err == nil, errors.Is(err, kerr.TopicAlreadyExists): // another replica was faster
		return fmt.Errorf("topic %s is being created", name), nil
	case resp.ErrMessage != "":
		return classifyError(err, "topic %s cannot be created: %w: %s", name, err, resp.ErrMessage)
	default:
		return classifyError(err, "topic %s cannot be created: %w", name, err)
	}
}

// verifyConfigs compares the settings of a topic with the wanted ones. A setting that would lose records is an
// error; any other difference is logged as a warning, since an operator may have a reason for it. Without the ACL
// DescribeConfigs the settings count as verified.
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
			errs = append(errs, fmt.Errorf("%w (Kafka would delete pairing state that enrich still needs)",
				mismatch(name, is.Key, got, want, want)))
		default:
			e.warn("a topic is set otherwise than Weir would", "topic", name, "setting", is.Key, "is", got, "should", want)
		}
	}
	return nil, errors.Join(errs...)
}

// mismatch returns an error that names a setting and the command that corrects it. value is the setting's value
// in that command: a list needs brackets there, for example [compact,delete].
func mismatch(topic, key, got, want, value string) error {
	return fmt.Errorf("topic %s has %s=%s, want %s: "+
		"kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config %s=%s",
		topic, key, got, want, topic, key, value)
}

// deletesTooEarly reports whether value is a limit below s.least[key]. -1 is no limit. A value that is no number counts
// as none: the broker would not have accepted it.
func (s *spec) deletesTooEarly(key, value string) bool {
	least, ok := s.least[key]
	n, err := strconv.ParseInt(value, 10, 64)
	return ok && err == nil && n >= 0 && n < least
}

// sameList reports whether two comma-separated lists have the same elements in any order. Brokers answer with
// cleanup.policy=delete,compact or compact,delete.
func sameList(a, b string) bool {
	split := func(s string) []string {
		l := strings.Split(strings.ReplaceAll(s, " ", ""), ",")
		slices.Sort(l)
		return l
	}
	return slices.Equal(split(a), split(b))
}

// warn logs a warning; without a logger it does nothing.
func (e *ensurer) warn(msg string, args ...any) {
	if e.c.Log != nil {
		e.c.Log.Warn(msg, args...)
	}
}

// classifyError formats an error and returns it as wait if it may pass by itself, else as err. Too few brokers
// for the replication factor may pass: brokers may be starting.
func classifyError(cause error, format string, args ...any) (wait, err error) {
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

// String returns the spec as arguments of kafka-topics.sh, for example --partitions 1 --config cleanup.policy=compact.
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

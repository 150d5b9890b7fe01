// Package kafka starts a real Apache Kafka of three nodes for tests, from Maven
// Central's artefacts, on free ports of the loopback interface. KAFKA_BROKERS
// names one that runs already instead; its nodes are nobody's to kill.
package kafka

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// pom names what is fetched: the broker, and a logging backend, which Kafka
// does not bring.
const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>weir</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging><dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.4.0</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.1</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-core</artifactId><version>2.25.1</version></dependency>
</dependencies></project>`

const log4j = `<Configuration><Appenders><Console name="C"><PatternLayout pattern="%d %p %c %m%n"/></Console></Appenders>
<Loggers><Root level="warn"><AppenderRef ref="C"/></Root></Loggers></Configuration>`

// Nodes is how many nodes a Cluster has.
const Nodes = 3

// A Cluster is three combined broker and controller nodes.
type Cluster struct {
	// CAFile is what signed the brokers' certificates, of a cluster that wants TLS.
	CAFile string

	dir, lib string
	ports    [Nodes]int // of the brokers
	nodes    [Nodes]*exec.Cmd
	brokers  []string
	admin    []kgo.Opt // how its administrator reaches it
}

// jars fetches Kafka once and returns the folder.
func jars(ctx context.Context) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "weir").Output()
	if err != nil {
		return "", fmt.Errorf("go list: %w", err)
	}
	cache := filepath.Join(strings.TrimSpace(string(root)), ".cache", "kafka")
	lib := filepath.Join(cache, "lib")
	if found, _ := filepath.Glob(filepath.Join(lib, "kafka_2.13-*.jar")); len(found) > 0 {
		return lib, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(cache, "pom.xml"), []byte(pom), 0o644); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "mvn", "-q", "-B", "-f", filepath.Join(cache, "pom.xml"), "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+lib)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("mvn: %w\n%s", err, out)
	}
	return lib, nil
}

// FreePorts returns TCP ports of the loopback interface that nobody listens on.
func FreePorts(n int) (ports []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all are held until the last is known
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// New formats three nodes; StartNode starts one. They end with the test, and
// what they said is shown if it failed. Without Java and Maven it skips the test.
func New(ctx context.Context, t testing.TB) *Cluster {
	t.Helper()
	return start(ctx, t, nil)
}

// NewSecure is New for nodes that only take TLS with SCRAM-SHA-512 or OAUTHBEARER
// (unsigned tokens), and let nobody but the user admin do what no ACL allows.
// users are the names and passwords of SCRAM; admin has to be among them.
func NewSecure(ctx context.Context, t testing.TB, users map[string]string) *Cluster {
	t.Helper()
	return start(ctx, t, users)
}

func start(ctx context.Context, t testing.TB, users map[string]string) *Cluster {
	t.Helper()
	for _, tool := range []string{"java", "mvn"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED: no real Kafka without %s: %v", tool, err)
		}
	}
	c, err := format(ctx, t.TempDir(), users)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for i := range c.nodes {
			c.Kill(i)
		}
		if t.Failed() {
			for i := range c.nodes {
				b, _ := os.ReadFile(c.log(i)) // nothing to show if it is not there
				t.Logf("node %d:\n%.3000s", i+1, b)
			}
		}
	})
	return c
}

// Start returns a Cluster that answers: that of KAFKA_BROKERS, or one of its own.
func Start(ctx context.Context, t testing.TB) *Cluster {
	t.Helper()
	if list := os.Getenv("KAFKA_BROKERS"); list != "" {
		return &Cluster{brokers: strings.Split(list, ",")}
	}
	c := New(ctx, t)
	for i := range Nodes {
		if err := c.StartNode(i); err != nil {
			t.Fatal(err)
		}
	}
	c.WaitUp(ctx, t, Nodes)
	return c
}

// Own reports whether the nodes may be killed.
func (c *Cluster) Own() bool { return c.lib != "" }

func format(ctx context.Context, dir string, users map[string]string) (*Cluster, error) {
	lib, err := jars(ctx)
	if err != nil {
		return nil, err
	}
	ports, err := FreePorts(2 * Nodes)
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, lib: lib, ports: [Nodes]int(ports[:Nodes])}
	for _, p := range c.ports {
		c.brokers = append(c.brokers, fmt.Sprintf("127.0.0.1:%d", p))
	}
	if err := os.WriteFile(filepath.Join(dir, "log4j2.xml"), []byte(log4j), 0o644); err != nil {
		return nil, err
	}
	var voters []string
	for i := range Nodes {
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", i+1, ports[Nodes+i]))
	}
	for i := range Nodes {
		listener, guarded := "PLAINTEXT", ""
		if users != nil {
			listener = "SASL_SSL"
			if guarded, err = c.guard(users["admin"]); err != nil {
				return nil, err
			}
		}
		controllers := "PLAINTEXT"
		if users != nil {
			controllers = "SSL"
		}
		properties := fmt.Sprintf(`process.roles=broker,controller
node.id=%[1]d
controller.quorum.voters=%[2]s
listeners=%[7]s://127.0.0.1:%[3]d,CONTROLLER://127.0.0.1:%[4]d
advertised.listeners=%[7]s://127.0.0.1:%[3]d
controller.listener.names=CONTROLLER
inter.broker.listener.name=%[7]s
listener.security.protocol.map=CONTROLLER:%[8]s,%[7]s:%[7]s
%[6]s
log.dirs=%[5]s
auto.create.topics.enable=false
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=5
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.backoff.ms=500
unclean.leader.election.enable=false
`, i+1, strings.Join(voters, ","), ports[i], ports[Nodes+i], filepath.Join(dir, fmt.Sprintf("d%d", i+1)), guarded, listener, controllers)
		if err := os.WriteFile(c.properties(i), []byte(properties), 0o644); err != nil {
			return nil, err
		}
	}
	id, err := c.java(ctx, "kafka.tools.StorageTool", "random-uuid").Output()
	if err != nil {
		return nil, fmt.Errorf("cluster id: %w", err)
	}
	for i := range Nodes {
		args := []string{"kafka.tools.StorageTool", "format", "-t", strings.TrimSpace(string(id)), "-c", c.properties(i)}
		for name, password := range users {
			args = append(args, "--add-scram", fmt.Sprintf("SCRAM-SHA-512=[name=%s,password=%s]", name, password))
		}
		if out, err := c.java(ctx, args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("format: %w\n%s", err, out)
		}
	}
	return c, nil
}

func (c *Cluster) properties(i int) string {
	return filepath.Join(c.dir, fmt.Sprintf("n%d.properties", i+1))
}

func (c *Cluster) java(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "java", append([]string{
		"-Xms128m", "-Xmx640m", "-XX:+UseSerialGC", "-Dlog4j2.configurationFile=" + filepath.Join(c.dir, "log4j2.xml"), "-cp", c.lib + "/*",
	}, args...)...)
}

// StartNode starts node i, again after Kill.
func (c *Cluster) StartNode(i int) error {
	out, err := os.OpenFile(c.log(i), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := c.java(context.Background(), "kafka.Kafka", c.properties(i))
	cmd.Stdout, cmd.Stderr = out, out
	c.nodes[i] = cmd
	return cmd.Start()
}

func (c *Cluster) log(i int) string { return filepath.Join(c.dir, fmt.Sprintf("n%d.log", i+1)) }

// Kill ends node i at once.
func (c *Cluster) Kill(i int) {
	if cmd := c.nodes[i]; cmd != nil {
		_ = cmd.Process.Signal(syscall.SIGKILL) // gone already: as wanted
		_ = cmd.Wait()
		c.nodes[i] = nil
	}
}

// PIDs are the process ids of the nodes that run, of a cluster of its own.
func (c *Cluster) PIDs() (all []int) {
	for _, cmd := range c.nodes {
		if cmd != nil {
			all = append(all, cmd.Process.Pid)
		}
	}
	return all
}

// Pause stops all nodes where they are: they take connections, and answer nothing.
func (c *Cluster) Pause() { c.signal(syscall.SIGSTOP) }

// Resume lets them go on.
func (c *Cluster) Resume() { c.signal(syscall.SIGCONT) }

func (c *Cluster) signal(s syscall.Signal) {
	for _, cmd := range c.nodes {
		if cmd != nil {
			_ = cmd.Process.Signal(s) // gone already: it answers nothing
		}
	}
}

// Brokers are the addresses of all nodes.
func (c *Cluster) Brokers() []string { return c.brokers }

// WaitUp waits until n brokers are registered.
func (c *Cluster) WaitUp(ctx context.Context, t testing.TB, n int) {
	t.Helper()
	cl, err := kgo.NewClient(append(c.admin, kgo.SeedBrokers(c.brokers...), kgo.MetadataMinAge(100*time.Millisecond))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	Poll(ctx, t, fmt.Sprintf("%d brokers are up", n), func() bool {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		brokers, err := kadm.NewClient(cl).ListBrokers(try)
		return err == nil && len(brokers) >= n
	})
}

// Poll waits for what another process brings about.
func Poll(ctx context.Context, t testing.TB, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		}
	}
}

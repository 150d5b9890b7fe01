// Package kubernetes builds deploy/kubernetes as kubectl apply -k does, and decodes every object
// strictly into the type of its apiVersion and kind. It checks the objects against each other and
// against the services' settings. It is a module of its own because of Kubernetes' types.
package kubernetes

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"weir/internal/enrich"
	"weir/internal/ingest"
	"weir/internal/settings"
)

// all maps kind and name to the object.
type all map[string]any

func build(t *testing.T) all {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../../deploy/kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	objects := all{}
	for _, r := range built.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		var o any
		switch of := r.GetApiVersion() + " " + r.GetKind(); of {
		case "v1 Namespace":
			o = new(core.Namespace)
		case "v1 ConfigMap":
			o = new(core.ConfigMap)
		case "v1 Service":
			o = new(core.Service)
		case "apps/v1 Deployment":
			o = new(apps.Deployment)
		case "apps/v1 StatefulSet":
			o = new(apps.StatefulSet)
		case "policy/v1 PodDisruptionBudget":
			o = new(policy.PodDisruptionBudget)
		case "networking.k8s.io/v1 NetworkPolicy":
			o = new(networking.NetworkPolicy)
		default:
			t.Fatalf("%s %s: no type for it here", of, r.GetName())
		}
		if err := yaml.UnmarshalStrict(text, o); err != nil {
			t.Errorf("%s %s: %v", r.GetKind(), r.GetName(), err)
		}
		objects[r.GetKind()+" "+r.GetName()] = o
	}
	return objects
}

func get[T any](t *testing.T, objects all, name string) *T {
	t.Helper()
	o, ok := objects[name].(*T)
	if !ok {
		t.Fatalf("no %s among %v", name, slices.Sorted(maps.Keys(objects)))
	}
	return o
}

// environ returns the environment of a container.
func environ(t *testing.T, objects all, c *core.Container) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, from := range c.EnvFrom {
		found := false
		for name, o := range objects {
			if m, ok := o.(*core.ConfigMap); ok && name == "ConfigMap "+from.ConfigMapRef.Name {
				maps.Copy(env, m.Data)
				found = true
			}
		}
		if !found {
			t.Errorf("%s: no ConfigMap %s", c.Name, from.ConfigMapRef.Name)
		}
	}
	for _, e := range c.Env {
		env[e.Name] = e.Value
		if e.ValueFrom != nil {
			env[e.Name] = "of the pod: " + e.ValueFrom.FieldRef.FieldPath
		}
	}
	return env
}

// known checks that every variable is a setting of the service.
func known(t *testing.T, env map[string]string, variables []settings.Variable) {
	t.Helper()
	for name := range env {
		if !slices.ContainsFunc(variables, func(v settings.Variable) bool { return v.Name == name }) {
			t.Errorf("%s is no setting", name)
		}
	}
}

func TestIngest(t *testing.T) {
	objects := build(t)
	d := get[apps.Deployment](t, objects, "Deployment ingest")
	c := &d.Spec.Template.Spec.Containers[0]
	env := environ(t, objects, c)
	known(t, env, settings.Variables[ingest.Config]())
	config, err := settings.Parse[ingest.Config](env)
	if err != nil {
		t.Fatalf("ingest would refuse its settings: %v", err)
	}
	if got := env["REPLICA"]; got != "of the pod: metadata.name" {
		t.Errorf("REPLICA is %q: want the pod's name", got)
	}
	if limit := c.Resources.Limits.Memory().Value(); int64(config.MemoryMax) > limit-64<<20 {
		t.Errorf("MEMORY_MAX=%d leaves no room below the limit of %d", config.MemoryMax, limit)
	}
	grace := *d.Spec.Template.Spec.TerminationGracePeriodSeconds
	if need := c.Lifecycle.PreStop.Sleep.Seconds + int64((config.Drain + config.Flush).Seconds()); grace < need+5 {
		t.Errorf("%d s to end: want 5 more than the %d that it may need", grace, need)
	}
	s := get[core.Service](t, objects, "Service ingest")
	if s.Spec.ExternalTrafficPolicy != core.ServiceExternalTrafficPolicyLocal || s.Spec.Type != core.ServiceTypeLoadBalancer {
		t.Errorf("%s, %s: the exporter's address would not survive", s.Spec.Type, s.Spec.ExternalTrafficPolicy)
	}
	if p := s.Spec.Ports[0]; p.Protocol != core.ProtocolUDP || portOf(c, p.TargetPort.StrVal) != config.Listen[0].Port() {
		t.Errorf("the service's port %v does not lead to %v", p, config.Listen)
	}
	pod(t, objects, "ingest", d.Spec.Selector, &d.Spec.Template)
}

func TestEnrich(t *testing.T) {
	objects := build(t)
	s := get[apps.StatefulSet](t, objects, "StatefulSet enrich")
	c := &s.Spec.Template.Spec.Containers[0]
	env := environ(t, objects, c)
	known(t, env, settings.Variables[enrich.Config]())
	if _, err := settings.Parse[enrich.Config](env); err != nil {
		t.Fatalf("enrich would refuse its settings: %v", err)
	}
	if got := env["INSTANCE"]; got != "of the pod: metadata.name" {
		t.Errorf("INSTANCE is %q: want the pod's name, which stays", got)
	}
	if get[core.Service](t, objects, "Service "+s.Spec.ServiceName).Spec.ClusterIP != core.ClusterIPNone {
		t.Error("the StatefulSet's service is not headless")
	}
	pod(t, objects, "enrich", s.Spec.Selector, &s.Spec.Template)
}

func portOf(c *core.Container, name string) uint16 {
	for _, p := range c.Ports {
		if p.Name == name {
			return uint16(p.ContainerPort)
		}
	}
	return 0
}

// pod checks the requirements on the pods of both services, and that selectors match them.
func pod(t *testing.T, objects all, name string, selector *meta.LabelSelector, template *core.PodTemplateSpec) {
	t.Helper()
	selects := func(what string, s *meta.LabelSelector) {
		t.Helper()
		sel, err := meta.LabelSelectorAsSelector(s)
		if err != nil || !sel.Matches(labels.Set(template.Labels)) {
			t.Errorf("%s selects %v (%v), the pods have %v", what, s, err, template.Labels)
		}
	}
	selects("the workload", selector)
	selects("the service", &meta.LabelSelector{MatchLabels: get[core.Service](t, objects, "Service "+name).Spec.Selector})
	selects("the disruption budget", get[policy.PodDisruptionBudget](t, objects, "PodDisruptionBudget "+name).Spec.Selector)
	selects("the spread", template.Spec.TopologySpreadConstraints[0].LabelSelector)

	c := template.Spec.Containers[0]
	if !strings.HasPrefix(c.Image, "registry.example.com/weir-"+name+":") {
		t.Errorf("the image %s was not replaced", c.Image)
	}
	for what, probe := range map[string]*core.Probe{"/healthz": c.LivenessProbe, "/readyz": c.ReadinessProbe} {
		if probe == nil || probe.HTTPGet.Path != what || portOf(&c, probe.HTTPGet.Port.StrVal) != 9108 {
			t.Errorf("no probe of %s on the port of METRICS_LISTEN: %v", what, probe)
		}
	}
	s, p := c.SecurityContext, template.Spec.SecurityContext
	if !*p.RunAsNonRoot || *p.RunAsUser != 65532 || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || fmt.Sprint(s.Capabilities.Drop) != "[ALL]" || p.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
		t.Errorf("not as restricted as the namespace asks for: %v %v", p, s)
	}
}

// The network policies deny everything except the traffic that the services need: datagrams,
// metrics, Kafka, DNS.
func TestTheNetworkPolicies(t *testing.T) {
	objects := build(t)
	deny := get[networking.NetworkPolicy](t, objects, "NetworkPolicy default-deny")
	if len(deny.Spec.PolicyTypes) != 2 || len(deny.Spec.Ingress)+len(deny.Spec.Egress) != 0 {
		t.Errorf("not everything is denied: %v", deny.Spec)
	}
	var in, out []string
	for _, o := range objects {
		if p, ok := o.(*networking.NetworkPolicy); ok {
			for _, r := range p.Spec.Ingress {
				for _, port := range r.Ports {
					in = append(in, fmt.Sprint(*port.Protocol, " ", port.Port))
				}
			}
			for _, r := range p.Spec.Egress {
				for _, port := range r.Ports {
					out = append(out, fmt.Sprint(*port.Protocol, " ", port.Port))
				}
			}
		}
	}
	slices.Sort(in)
	slices.Sort(out)
	if got := fmt.Sprint(in, out); got != "[TCP 9108 UDP 2055] [TCP 53 TCP 9092 UDP 53]" {
		t.Errorf("allowed: %s", got)
	}
}

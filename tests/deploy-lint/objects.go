package main

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	disruption "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// A serviceMonitor has the fields of the custom resource that the chart uses.
type serviceMonitor struct {
	meta.TypeMeta   `json:",inline"`
	meta.ObjectMeta `json:"metadata"`
	Spec            struct {
		Selector  meta.LabelSelector `json:"selector"`
		Endpoints []struct {
			Port     string        `json:"port"`
			Path     string        `json:"path"`
			Interval meta.Duration `json:"interval"`
		} `json:"endpoints"`
	} `json:"spec"`
}

// What a chart was rendered to, read without tolerance for unknown or repeated fields.
type objects struct {
	set      *apps.StatefulSet
	configs  map[string]*core.ConfigMap
	services []*core.Service
	accounts []string
	budgets  []*disruption.PodDisruptionBudget
	policies []*networking.NetworkPolicy
	monitors []*serviceMonitor
}

var documents = regexp.MustCompile(`(?m)^---$`)

func decode(rendered map[string]string) (*objects, error) {
	found := &objects{configs: map[string]*core.ConfigMap{}}
	options := json.SerializerOptions{Yaml: true, Strict: true}
	decoder := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, options)
	for _, name := range sorted(rendered) {
		for _, document := range documents.Split(rendered[name], -1) {
			if strings.TrimSpace(document) == "" {
				continue
			}
			if err := found.add(decoder, []byte(document)); err != nil {
				return nil, fmt.Errorf("%s: %w", path.Base(name), err)
			}
		}
	}
	if found.set == nil {
		return nil, fmt.Errorf("no StatefulSet")
	}
	return found, nil
}

func (o *objects) add(decoder runtime.Decoder, document []byte) error {
	var kind meta.TypeMeta
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return err
	}
	if kind.APIVersion == "monitoring.coreos.com/v1" && kind.Kind == "ServiceMonitor" {
		monitor := &serviceMonitor{}
		o.monitors = append(o.monitors, monitor)
		return yaml.UnmarshalStrict(document, monitor)
	}
	object, _, err := decoder.Decode(document, nil, nil)
	if err != nil {
		return err
	}
	switch object := object.(type) {
	case *apps.StatefulSet:
		o.set = object
	case *core.ConfigMap:
		o.configs[object.Name] = object
	case *core.Service:
		o.services = append(o.services, object)
	case *core.ServiceAccount:
		o.accounts = append(o.accounts, object.Name)
	case *disruption.PodDisruptionBudget:
		o.budgets = append(o.budgets, object)
	case *networking.NetworkPolicy:
		o.policies = append(o.policies, object)
	default:
		return fmt.Errorf("nothing here knows what to check of a %s", kind.Kind)
	}
	return nil
}

// check looks whether the objects fit together, and has kasbah read its configuration.
func (o *objects) check(r *run, name string) error {
	pod := o.set.Spec.Template
	fits := func(selector *meta.LabelSelector, of labels.Set) bool {
		compiled, err := meta.LabelSelectorAsSelector(selector)
		return err == nil && !compiled.Empty() && compiled.Matches(of)
	}
	if !fits(o.set.Spec.Selector, pod.Labels) {
		r.problem(name, "the StatefulSet does not select its own pods")
	}
	if !contains(o.accounts, pod.Spec.ServiceAccountName) {
		r.problem(name, "there is no service account %s", pod.Spec.ServiceAccountName)
	}
	for _, budget := range o.budgets {
		if !fits(budget.Spec.Selector, pod.Labels) {
			r.problem(name, "the disruption budget does not select the pods")
		}
	}
	o.checkRestricted(r, name)
	o.checkServices(r, name)
	o.checkNetworkPolicies(r, name, fits)
	o.checkMonitors(r, name, fits)
	for _, container := range append(slices.Clone(pod.Spec.InitContainers), pod.Spec.Containers...) {
		o.checkContainer(r, name, container)
	}
	return o.checkConfig(r, name)
}

// checkRestricted asks the admission of Kubernetes for its strictest level.
func (o *objects) checkRestricted(r *run, name string) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		r.problem(name, "%v", err)
		return
	}
	pod := o.set.Spec.Template
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	for _, result := range evaluator.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec) {
		if !result.Allowed {
			r.problem(name, "not restricted: %s: %s", result.ForbiddenReason, result.ForbiddenDetail)
		}
	}
}

// server is the container that is Kasbah.
func (o *objects) server() core.Container { return o.set.Spec.Template.Spec.Containers[0] }

func (o *objects) hasPort(port intstr.IntOrString) bool {
	return slices.ContainsFunc(o.server().Ports, func(own core.ContainerPort) bool {
		return port.StrVal != "" && own.Name == port.StrVal || own.ContainerPort == port.IntVal
	})
}

func (o *objects) checkServices(r *run, name string) {
	governing := false
	for _, service := range o.services {
		if !labels.SelectorFromSet(service.Spec.Selector).Matches(labels.Set(o.set.Spec.Template.Labels)) {
			r.problem(name, "service %s does not select the pods", service.Name)
		}
		governing = governing || service.Name == o.set.Spec.ServiceName && service.Spec.ClusterIP == "None"
		for _, port := range service.Spec.Ports {
			if !o.hasPort(port.TargetPort) {
				r.problem(name, "service %s leads to port %s, which the pods do not have", service.Name, port.TargetPort.String())
			}
			if port.Name == "metrics" && service.Spec.ClusterIP != "None" {
				r.problem(name, "service %s, which is for clients, has the metrics", service.Name)
			}
		}
	}
	if !governing {
		r.problem(name, "there is no headless service %s", o.set.Spec.ServiceName)
	}
}

func (o *objects) checkNetworkPolicies(r *run, name string, fits func(*meta.LabelSelector, labels.Set) bool) {
	for _, policy := range o.policies {
		if !fits(&policy.Spec.PodSelector, o.set.Spec.Template.Labels) {
			r.problem(name, "the network policy does not select the pods")
		}
		for _, rule := range policy.Spec.Ingress {
			for _, port := range rule.Ports {
				if port.Port == nil || !o.hasPort(*port.Port) {
					r.problem(name, "the network policy names a port that the pods do not have")
				}
				if port.Port != nil && port.Port.StrVal == "metrics" && len(rule.From) == 0 {
					r.problem(name, "the network policy lets everybody read the metrics")
				}
			}
		}
	}
}

func (o *objects) checkMonitors(r *run, name string, fits func(*meta.LabelSelector, labels.Set) bool) {
	for _, monitor := range o.monitors {
		matching := 0
		for _, service := range o.services {
			if !fits(&monitor.Spec.Selector, service.Labels) {
				continue
			}
			matching++
			for _, endpoint := range monitor.Spec.Endpoints {
				if !slices.ContainsFunc(service.Spec.Ports, func(port core.ServicePort) bool { return port.Name == endpoint.Port }) {
					r.problem(name, "service %s has no port %s to scrape", service.Name, endpoint.Port)
				}
			}
		}
		if matching != 1 || len(monitor.Spec.Endpoints) == 0 {
			r.problem(name, "the service monitor matches %d services, not 1", matching)
		}
	}
}

func (o *objects) checkContainer(r *run, name string, container core.Container) {
	security := container.SecurityContext
	if security == nil || security.ReadOnlyRootFilesystem == nil || !*security.ReadOnlyRootFilesystem {
		r.problem(name, "container %s may write to its root file system", container.Name)
	}
	if container.Resources.Requests.Cpu().IsZero() || container.Resources.Limits.Memory().IsZero() {
		r.problem(name, "container %s does not say what it needs", container.Name)
	}
	seen := map[string]bool{}
	for _, mount := range container.VolumeMounts {
		if !o.hasVolume(mount.Name) {
			r.problem(name, "container %s mounts %s, which is no volume", container.Name, mount.Name)
		}
		if seen[mount.MountPath] {
			r.problem(name, "container %s has two volumes at %s", container.Name, mount.MountPath)
		}
		if mount.SubPath != "" {
			r.problem(name, "container %s would not see a change of %s", container.Name, mount.MountPath)
		}
		seen[mount.MountPath] = true
	}
	if container.Name == "kasbah" {
		o.checkServer(r, name, container)
	}
}

func (o *objects) hasVolume(name string) bool {
	_, found := o.volume(name)
	return found || slices.ContainsFunc(o.set.Spec.VolumeClaimTemplates, func(claim core.PersistentVolumeClaim) bool {
		return claim.Name == name
	})
}

func (o *objects) volume(name string) (core.Volume, bool) {
	volumes := o.set.Spec.Template.Spec.Volumes
	index := slices.IndexFunc(volumes, func(volume core.Volume) bool { return volume.Name == name })
	if index < 0 {
		return core.Volume{}, false
	}
	return volumes[index], true
}

func (o *objects) checkServer(r *run, name string, container core.Container) {
	r.checkCommand(name, container.Args)
	probes := map[string]*core.Probe{"/healthz": container.LivenessProbe, "/readyz": container.ReadinessProbe}
	for wanted, probe := range probes {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != wanted || !o.hasPort(probe.HTTPGet.Port) {
			r.problem(name, "there is no probe of %s at a port of the pod", wanted)
			continue
		}
		_, encrypted := o.volume("tls")
		if encrypted != (probe.HTTPGet.Scheme == core.URISchemeHTTPS) {
			r.problem(name, "the probe of %s does not speak as the server does", wanted)
		}
	}
}

// checkConfig has kasbah read kasbah.yaml, with the files that the pod mounts.
func (o *objects) checkConfig(r *run, name string) error {
	m, err := newMachine()
	if err != nil {
		return err
	}
	defer m.remove()
	public, private, err := certificate()
	if err != nil {
		return err
	}
	known := map[string]string{"tls.crt": public, "ca.crt": public, "tls.key": private}
	for _, mount := range o.server().VolumeMounts {
		if err := o.mount(m, mount, known); err != nil {
			return err
		}
	}
	var settings struct {
		Server struct {
			Limits struct {
				Drain *int `json:"drain_timeout_seconds"`
			}
		}
		Modules map[string]struct{ Path string }
	}
	text := o.configs[o.set.Name].Data["kasbah.yaml"]
	if err := yaml.Unmarshal([]byte(text), &settings); err != nil {
		return err
	}
	o.checkGrace(r, name, settings.Server.Limits.Drain)
	for _, module := range settings.Modules {
		// It comes from an image or a machine, where only its folder is known here.
		if m.has(module.Path) || module.Path == softHSM {
			if err := m.file(module.Path, ""); err != nil {
				return err
			}
		}
	}
	return r.checkConfig(name, m, "/etc/kasbah/kasbah.yaml")
}

func (o *objects) checkGrace(r *run, name string, seconds *int) {
	longest := drain
	if seconds != nil {
		longest = time.Duration(*seconds) * time.Second
	}
	grace := o.set.Spec.Template.Spec.TerminationGracePeriodSeconds
	if grace == nil || time.Duration(*grace)*time.Second <= longest {
		r.problem(name, "pods are killed before requests under way are done")
	}
}

// mount lays out a volume. Secrets have the files that the pod picks, with made-up content.
func (o *objects) mount(m *machine, mount core.VolumeMount, known map[string]string) error {
	volume, _ := o.volume(mount.Name)
	var items []core.KeyToPath
	if volume.Secret != nil {
		items = volume.Secret.Items
	}
	if volume.Projected != nil {
		for _, source := range volume.Projected.Sources {
			items = append(items, source.Secret.Items...)
		}
	}
	for _, item := range items {
		content, is := known[item.Key]
		if !is {
			content = rootKey
		}
		if err := m.file(path.Join(mount.MountPath, item.Path), content); err != nil {
			return err
		}
	}
	if len(items) > 0 {
		return nil
	}
	if volume.ConfigMap == nil || o.configs[volume.ConfigMap.Name] == nil {
		return m.directory(mount.MountPath)
	}
	for name, text := range o.configs[volume.ConfigMap.Name].Data {
		if err := m.file(path.Join(mount.MountPath, name), text); err != nil {
			return err
		}
	}
	return nil
}

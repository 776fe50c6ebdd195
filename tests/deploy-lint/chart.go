package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	helm "helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"sigs.k8s.io/yaml"
)

// kubernetes is the oldest version that Chart.yaml allows.
var kubernetes = chartutil.KubeVersion{Version: "v1.29.0", Major: "1", Minor: "29"}

// chart lints and renders the chart with the values in its folder ci, and checks what comes out.
func chart(r *run) error {
	folder := r.path("deploy/helm/kasbah")
	loaded, err := loader.Load(folder)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(folder, "ci", "*-values.yaml"))
	if err != nil {
		return err
	}
	if len(files) < 3 {
		return fmt.Errorf("only %d examples of values in ci", len(files))
	}
	for _, file := range files {
		name := "chart " + strings.TrimSuffix(filepath.Base(file), "-values.yaml")
		before := r.problems
		if err := example(r, name, folder, loaded, file); err != nil {
			r.problem(name, "%v", err)
		}
		if r.problems == before {
			fmt.Printf("ok   %s\n", name)
		}
	}
	return refusals(r, loaded, filepath.Join(folder, "ci/network-hsm-values.yaml"))
}

func example(r *run, name, folder string, loaded *helm.Chart, file string) error {
	values, err := chartutil.ReadValuesFile(file)
	if err != nil {
		return err
	}
	for _, message := range lint.AllWithKubeVersion(folder, values, "kasbah", &kubernetes).Messages {
		if message.Severity >= support.WarningSev {
			r.problem(name, "helm lint: %v", message)
		}
	}
	rendered, err := render(loaded, values)
	if err != nil {
		return err
	}
	objects, err := decode(rendered)
	if err != nil {
		return err
	}
	return objects.check(r, name)
}

// render does what `helm template` does.
func render(loaded *helm.Chart, values map[string]any) (map[string]string, error) {
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.KubeVersion = kubernetes
	release := chartutil.ReleaseOptions{Name: "kas", Namespace: "kasbah", Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(loaded, values, release, capabilities)
	if err != nil {
		return nil, err
	}
	rendered, err := engine.Render(loaded, all)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(rendered, func(name, text string) bool {
		return strings.HasSuffix(name, ".txt") || strings.TrimSpace(text) == ""
	})
	return rendered, nil
}

// refusals tries values that the chart must not take. Each changes one thing in values that it takes.
func refusals(r *run, loaded *helm.Chart, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for _, wrong := range []struct{ what, change, says string }{
		{"nothing said", "", "config"},
		{"an unknown value", "replica: 3", "replica"},
		{"an unknown section of kasbah.yaml", "config: { registri: {} }", "registri"},
		{"an address that the chart chooses", `config: { server: { listen: "[::]:1" } }`, "listen"},
		{"a source of a secret in the settings", "config: { secrets: { a: { file: b } } }", "secrets"},
		{"the value of a secret", "secrets: { pin1: { value: '1234' } }", "value"},
		{"a private key in a file", `files: { key.pem: "-----BEGIN PRIVATE KEY-----" }`, "files"},
		{"any token, as an administrator's", "config: { auth: { mode: dev } }", "mode"},
		{"many nodes on SQLite", `config: { registry: { database: "sqlite:/var/lib/kasbah/r.db" } }`, "SQLite"},
		{"a PIN tried until the token locks", "config: { providers: [{ name: a, config: { pin: pin1 } }] }", "required: false"},
		{"two sources of the module", "module: { volume: { hostPath: { path: /opt } } }", "module.copy"},
		{"client certificates without TLS", `{ tls: { secretName: "" }, config: { server: { plaintext: true } } }`, "clientCaSecretName"},
		{"plaintext that nobody asked for", `tls: { secretName: "", clientCaSecretName: "" }`, "plaintext"},
		{"a secret of the name that TLS has", "secrets: { tls: { secretName: a, key: b } }", "secrets.tls"},
		{"a digest that is none", "image: { digest: latest }", "digest"},
	} {
		values := map[string]any{}
		if wrong.change != "" {
			changed := map[string]any{}
			if err := yaml.UnmarshalStrict([]byte(wrong.change), &changed); err != nil {
				return err
			}
			if err := yaml.UnmarshalStrict(text, &values); err != nil {
				return err
			}
			values = chartutil.CoalesceTables(changed, values)
		}
		_, err := render(loaded, values)
		if err == nil || !strings.Contains(err.Error(), wrong.says) {
			r.problem("chart", "expected %s to be refused with %q, got: %v", wrong.what, wrong.says, err)
		}
	}
	return nil
}

// sorted are the keys of a map in order.
func sorted[V any](all map[string]V) []string { return slices.Sorted(maps.Keys(all)) }

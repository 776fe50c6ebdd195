// Command deploy-lint checks what is under deploy/ as far as a machine can without a cluster, a
// Docker daemon or a running systemd, and feeds every configuration that is shipped or rendered to
// `kasbah config check`.
//
// Usage: deploy-lint ROOT KASBAH, the root of the repository and the program under test. It prints a
// line for each part and ends with 1 if anything is wrong.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// A run over one repository.
type run struct {
	root     string
	kasbah   string
	problems int
}

// problem reports one thing that is wrong with a part.
func (r *run) problem(part, format string, arguments ...any) {
	r.problems++
	fmt.Printf("FAIL %-10s %s\n", part, fmt.Sprintf(format, arguments...))
}

// path is the path of a file of the repository.
func (r *run) path(parts ...string) string {
	return filepath.Join(append([]string{r.root}, parts...)...)
}

// text is the content of a file of the repository.
func (r *run) text(parts ...string) (string, error) {
	data, err := os.ReadFile(r.path(parts...))
	return string(data), err
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: deploy-lint ROOT KASBAH")
		os.Exit(2)
	}
	r := &run{root: os.Args[1], kasbah: os.Args[2]}
	parts := []struct {
		name  string
		check func(*run) error
	}{
		{"versions", versions},
		{"image", image},
		{"compose", compose},
		{"systemd", systemd},
		{"chart", chart},
	}
	for _, part := range parts {
		before := r.problems
		if err := part.check(r); err != nil {
			r.problem(part.name, "%v", err)
		}
		if r.problems == before {
			fmt.Printf("ok   %s\n", part.name)
		}
	}
	if r.problems > 0 {
		fmt.Printf("deploy-lint: %d problems\n", r.problems)
		os.Exit(1)
	}
}

// versions compares what says the version of Kasbah with the workspace.
func versions(r *run) error {
	manifest, err := r.text("Cargo.toml")
	if err != nil {
		return err
	}
	workspace := regexp.MustCompile(`(?s)\[workspace\.package\]\s+version = "([^"]+)"`).FindStringSubmatch(manifest)
	if workspace == nil {
		return fmt.Errorf("Cargo.toml names no version of the workspace")
	}
	for _, place := range []struct{ file, pattern string }{
		{"deploy/docker/Dockerfile", `(?m)^ARG VERSION=(.+)$`},
		{"deploy/helm/kasbah/Chart.yaml", `(?m)^appVersion: "(.+)"$`},
	} {
		text, err := r.text(place.file)
		if err != nil {
			return err
		}
		found := regexp.MustCompile(place.pattern).FindStringSubmatch(text)
		if found == nil || found[1] != workspace[1] {
			r.problem("versions", "%s is not of version %s, as Cargo.toml is", place.file, workspace[1])
		}
	}
	return nil
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// linux is the platform of the image.
var linux = ocispecs.Platform{OS: "linux", Architecture: "amd64"}

// emptyBase says of every base image that it is there and has no settings: no registry is asked.
type emptyBase struct{}

func (emptyBase) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config, err := json.Marshal(ocispecs.Image{Platform: linux})
	return ref, digest.FromBytes(config), config, err
}

// image checks the Dockerfile by the rules of `docker build --check`, and the build context.
func image(r *run) error {
	text, err := os.ReadFile(r.path("deploy/docker/Dockerfile"))
	if err != nil {
		return err
	}
	source := llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", text)
	source.Definition = &llb.Definition{}
	results, err := dockerfile2llb.DockerfileLint(context.Background(), text, dockerfile2llb.ConvertOpt{
		Config:         dockerui.Config{BuildPlatforms: []ocispecs.Platform{linux}},
		TargetPlatform: &linux,
		MetaResolver:   emptyBase{},
		SourceMap:      source,
	})
	if err != nil {
		return err
	}
	if results.Error != nil {
		return fmt.Errorf("Dockerfile: %s", results.Error.Message)
	}
	for _, warning := range results.Warnings {
		r.problem("image", "Dockerfile: %s: %s", warning.RuleName, warning.Detail)
	}
	if err := stages(r, text); err != nil {
		return err
	}
	return buildContext(r)
}

// stages checks what an image does when it runs.
func stages(r *run, text []byte) error {
	parsed, err := parser.Parse(strings.NewReader(string(text)))
	if err != nil {
		return err
	}
	all, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return err
	}
	targets := map[string]bool{}
	var healthy bool
	for _, stage := range all {
		targets[stage.Name] = true
		user := ""
		for _, command := range stage.Commands {
			switch command := command.(type) {
			case *instructions.UserCommand:
				user = command.User
			case *instructions.HealthCheckCommand:
				healthy = true
				if len(command.Health.Test) > 2 {
					r.checkCommand("image", command.Health.Test[2:])
				}
			case *instructions.CopyCommand:
				if command.From != "" && !targets[command.From] {
					r.problem("image", "stage %s copies from %s, which is no stage before it", stage.Name, command.From)
				}
			case *instructions.CmdCommand:
				r.checkCommand("image", command.CmdLine)
			}
		}
		if stage.Name != "build" && user != "" && !regexp.MustCompile(`^[1-9][0-9]*:[1-9][0-9]*$`).MatchString(user) {
			r.problem("image", "stage %s ends as user %q, which is not a number other than root's", stage.Name, user)
		}
		if stage.Name == "server" && user == "" {
			r.problem("image", "stage server runs as root")
		}
	}
	if last := all[len(all)-1].Name; last != "kasbah" || !targets["softhsm"] || !healthy {
		r.problem("image", "expected a stage softhsm, a health check, and kasbah as what is built by default, not %s", last)
	}
	return nil
}

// buildContext checks that .dockerignore lets in what Cargo needs and nothing else.
func buildContext(r *run) error {
	ignore, err := os.Open(r.path(".dockerignore"))
	if err != nil {
		return err
	}
	defer ignore.Close()
	patterns, err := ignorefile.ReadAll(ignore)
	if err != nil {
		return err
	}
	matcher, err := patternmatcher.New(patterns)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "deploy-lint-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	listed, err := exec.Command("git", "-C", r.root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	for _, file := range strings.Split(strings.TrimRight(string(listed), "\x00"), "\x00") {
		ignored, err := matcher.MatchesOrParentMatches(file)
		if err != nil {
			return err
		}
		if !ignored {
			if err := copyFile(r.path(file), filepath.Join(folder, file)); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
	}
	for _, secret := range []string{".git/config", ".env", "deploy/compose/secrets/pin", "target/debug/kasbah"} {
		if ignored, err := matcher.MatchesOrParentMatches(secret); err != nil || !ignored {
			r.problem("image", ".dockerignore lets %s into the build", secret)
		}
	}
	command := exec.Command("cargo", "metadata", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu", "--format-version", "1")
	command.Dir = folder
	if output, err := command.Output(); err != nil || len(output) == 0 {
		complaint := ""
		if exit, ok := err.(*exec.ExitError); ok {
			complaint = string(exit.Stderr)
		}
		r.problem("image", "Cargo cannot read the workspace that .dockerignore lets in: %s", complaint)
	}
	return nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o600)
}

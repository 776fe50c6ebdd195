package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

// softHSM is the module in the image `softhsm`.
const softHSM = "/usr/lib/softhsm/libsofthsm2.so"

// drain is what the server takes at most to stop when its configuration does not say.
const drain = 30 * time.Second

// compose reads the file as `docker compose config` does, and checks what it starts.
func compose(r *run) error {
	environment, err := dotenv.Read(r.path("deploy/compose/env.example"))
	if err != nil {
		return err
	}
	for left := range environment {
		others := maps.Clone(environment)
		delete(others, left)
		if _, err := loadCompose(r, others); err == nil {
			r.problem("compose", "it is fine without %s, which has to be said", left)
		}
	}
	project, err := loadCompose(r, environment)
	if err != nil {
		return err
	}
	for _, service := range project.Services {
		hardened(r, service)
	}
	kas := project.Services["kas"]
	if kas.StopGracePeriod == nil || time.Duration(*kas.StopGracePeriod) <= drain {
		r.problem("compose", "kas is killed before requests under way are done")
	}
	if !project.Networks["back"].Internal {
		r.problem("compose", "network back, which has the database and the metrics, leads elsewhere")
	}
	r.checkCommand("compose", kas.HealthCheck.Test[2:])
	secrets, err := makeSecrets(r)
	if err != nil {
		return err
	}
	defer os.RemoveAll(secrets)
	m, err := composeMachine(project, kas, secrets)
	if err != nil {
		return err
	}
	defer m.remove()
	return r.checkConfig("compose", m, "/etc/kasbah/kasbah.yaml")
}

func loadCompose(r *run, environment map[string]string) (*types.Project, error) {
	folder := r.path("deploy/compose")
	return loader.LoadWithContext(context.Background(), types.ConfigDetails{
		WorkingDir:  folder,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(folder, "compose.yaml")}},
		Environment: environment,
	}, func(options *loader.Options) { options.SetProjectName("kasbah", true) })
}

// hardened checks what every service must be.
func hardened(r *run, service types.ServiceConfig) {
	if !service.ReadOnly {
		r.problem("compose", "%s may write to its root file system", service.Name)
	}
	if len(service.CapDrop) != 1 || service.CapDrop[0] != "ALL" || len(service.CapAdd) != 0 {
		r.problem("compose", "%s has capabilities", service.Name)
	}
	if !contains(service.SecurityOpt, "no-new-privileges:true") || service.Privileged {
		r.problem("compose", "%s may get new privileges", service.Name)
	}
	for _, port := range service.Ports {
		if port.HostIP != "127.0.0.1" {
			r.problem("compose", "%s publishes port %d to other machines, without TLS", service.Name, port.Target)
		}
	}
	for name, value := range service.Environment {
		upper := strings.ToUpper(name)
		secret := strings.Contains(upper, "PASSWORD") || strings.Contains(upper, "SECRET") || strings.HasSuffix(upper, "PIN")
		if secret && value != nil && !strings.HasSuffix(upper, "_FILE") {
			r.problem("compose", "%s has a secret in its environment: %s", service.Name, name)
		}
	}
}

// makeSecrets runs the script twice, the second time without effect, and returns the folder.
func makeSecrets(r *run) (string, error) {
	folder, err := os.MkdirTemp("", "deploy-lint-")
	if err != nil {
		return "", err
	}
	script := filepath.Join(folder, "make-secrets")
	if err := copyFile(r.path("deploy/compose/make-secrets"), script); err != nil {
		return folder, err
	}
	before := ""
	for attempt := range 2 {
		if output, err := exec.Command("bash", script).CombinedOutput(); err != nil {
			return folder, fmt.Errorf("make-secrets: %w: %s", err, output)
		}
		root, err := os.ReadFile(filepath.Join(folder, "secrets/root1"))
		if err != nil {
			return folder, err
		}
		if attempt == 1 && string(root) != before {
			r.problem("compose", "make-secrets replaces a root key that is there")
		}
		before = string(root)
	}
	info, err := os.Stat(filepath.Join(folder, "secrets"))
	if err == nil && info.Mode().Perm() != 0o700 {
		r.problem("compose", "others may look into the folder of secrets")
	}
	return folder, err
}

// composeMachine lays out what a service mounts.
func composeMachine(project *types.Project, service types.ServiceConfig, secrets string) (*machine, error) {
	m, err := newMachine()
	if err != nil {
		return nil, err
	}
	for _, config := range service.Configs {
		text, err := os.ReadFile(project.Configs[config.Source].File)
		if err != nil {
			return m, err
		}
		if err := m.file(config.Target, string(text)); err != nil {
			return m, err
		}
	}
	for _, secret := range service.Secrets {
		source := filepath.Join(secrets, "secrets", filepath.Base(project.Secrets[secret.Source].File))
		text, err := os.ReadFile(source)
		if err != nil {
			return m, err
		}
		target := secret.Target
		if target == "" {
			target = "/run/secrets/" + secret.Source
		}
		if err := m.file(target, string(text)); err != nil {
			return m, err
		}
	}
	for _, volume := range service.Volumes {
		if err := m.directory(volume.Target); err != nil {
			return m, err
		}
	}
	for name, value := range service.Environment {
		if value != nil {
			m.environment = append(m.environment, name+"="+*value)
		}
	}
	return m, m.file(softHSM, "")
}

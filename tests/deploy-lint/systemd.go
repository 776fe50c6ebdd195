package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// exposure is the highest score of `systemd-analyze security`, in tenths, that the unit may have.
const exposure = "15"

// systemd checks the unit by systemd's own tool, and the configuration that comes with it.
func systemd(r *run) error {
	unit, err := r.text("deploy/systemd/kasbah.service")
	if err != nil {
		return err
	}
	if err := unitConfig(r, unit); err != nil {
		return err
	}
	_, err = exec.LookPath("systemd-analyze")
	switch {
	case err == nil:
		return analyze(r, unit)
	case os.Getenv("CI") == "true":
		return fmt.Errorf("systemd-analyze is not here: install the package systemd")
	default:
		fmt.Println("skip systemd: systemd-analyze is not here, so the unit itself was not checked")
		return nil
	}
}

// analyze has systemd judge the unit, and checks what it leaves to others.
func analyze(r *run, unit string) error {
	folder, err := os.MkdirTemp("", "deploy-lint-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	// The unit as it is, but for the program, which is not installed here.
	start := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/kasbah (.*)$`)
	found := start.FindStringSubmatch(unit)
	if found == nil {
		return fmt.Errorf("the unit does not start /usr/bin/kasbah")
	}
	r.checkCommand("systemd", strings.Fields(found[1]))
	file := filepath.Join(folder, "kasbah.service")
	if err := os.WriteFile(file, []byte(start.ReplaceAllString(unit, "ExecStart="+r.kasbah+" $1")), 0o644); err != nil {
		return err
	}
	// It ends with 0 also for a setting that it does not know, so what it says counts.
	output, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput()
	if err != nil || len(strings.TrimSpace(string(output))) > 0 {
		r.problem("systemd", "systemd-analyze verify: %v: %s", err, output)
	}
	output, err = exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+exposure, file).CombinedOutput()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(output)), "\n")
		r.problem("systemd", "systemd-analyze security: above %s tenths: %s", exposure, lines[len(lines)-1])
	}
	seconds, err := strconv.Atoi(setting(unit, "TimeoutStopSec"))
	if err != nil || time.Duration(seconds)*time.Second <= drain {
		r.problem("systemd", "the server is killed before requests under way are done")
	}
	if setting(unit, "RestartPreventExitStatus") != "2" {
		r.problem("systemd", "a PIN that is refused would be tried again until the token locks")
	}
	return nil
}

func setting(unit, name string) string {
	found := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(unit)
	if found == nil {
		return ""
	}
	return found[1]
}

// unitConfig checks the configuration beside the unit, with the folders and credentials that the unit
// gives the server.
func unitConfig(r *run, unit string) error {
	m, err := newMachine()
	if err != nil {
		return err
	}
	defer m.remove()
	settings, err := r.text("deploy/systemd/kasbah.yaml")
	if err != nil {
		return err
	}
	public, private, err := certificate()
	if err != nil {
		return err
	}
	files := map[string]string{
		"/etc/kasbah/kasbah.yaml": settings,
		// What the operator puts there.
		"/etc/kasbah/tls.crt": public, "/etc/kasbah/tls.key": private, "/etc/kasbah/softhsm2.conf": "",
		softHSM: "",
	}
	for _, credential := range regexp.MustCompile(`(?m)^LoadCredential=([^:]+):/etc/kasbah/credentials/(.+)$`).FindAllStringSubmatch(unit, -1) {
		files["/run/credentials/"+credential[1]] = rootKey
	}
	for path, content := range files {
		if err := m.file(path, content); err != nil {
			return err
		}
	}
	if setting(unit, "StateDirectory") == "kasbah" {
		if err := m.directory("/var/lib/kasbah"); err != nil {
			return err
		}
	}
	for _, named := range regexp.MustCompile(`credential: ([^ }]+)`).FindAllStringSubmatch(settings, -1) {
		// It is looked for when the server starts, and not by the check.
		if _, given := files["/run/credentials/"+named[1]]; !given {
			r.problem("systemd", "the unit gives the server no credential %s", named[1])
		}
	}
	m.environment = []string{"CREDENTIALS_DIRECTORY=" + m.folder + "/run/credentials"}
	return r.checkConfig("systemd", m, "/etc/kasbah/kasbah.yaml")
}

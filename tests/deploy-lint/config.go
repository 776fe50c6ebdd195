package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// A machine is the file system that a server would find, as far as its configuration may name it,
// laid out in a temporary folder.
type machine struct {
	folder string
	// Absolute paths of folders and files that are there; what the configuration names must be
	// at or below one of them.
	places      []string
	environment []string
}

func newMachine() (*machine, error) {
	folder, err := os.MkdirTemp("", "deploy-lint-")
	return &machine{folder: folder}, err
}

func (m *machine) remove() { os.RemoveAll(m.folder) }

// directory makes a folder that the server has.
func (m *machine) directory(path string) error {
	m.places = append(m.places, path)
	return os.MkdirAll(m.folder+path, 0o700)
}

// file makes a file that the server has.
func (m *machine) file(path, content string) error {
	m.places = append(m.places, path)
	if err := os.MkdirAll(filepath.Dir(m.folder+path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(m.folder+path, []byte(content), 0o600)
}

// absolute finds the path in a setting, which may stand behind the scheme of a database.
var absolute = regexp.MustCompile(`^(sqlite:)?(/.*)$`)

// relocate has every absolute path of a configuration point into the folder, and says which of them
// are nowhere.
func (m *machine) relocate(value any, missing *[]string) any {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			value[key] = m.relocate(inner, missing)
		}
	case []any:
		for index, inner := range value {
			value[index] = m.relocate(inner, missing)
		}
	case string:
		found := absolute.FindStringSubmatch(value)
		if found == nil {
			return value
		}
		if !m.has(found[2]) {
			*missing = append(*missing, found[2])
		}
		return found[1] + m.folder + found[2]
	}
	return value
}

func (m *machine) has(path string) bool {
	for _, place := range m.places {
		if path == place || strings.HasPrefix(path, place+"/") {
			return true
		}
	}
	return false
}

// checkConfig feeds the configuration at `path` of the machine to `kasbah config check`.
func (r *run) checkConfig(part string, m *machine, path string) error {
	text, err := os.ReadFile(m.folder + path)
	if err != nil {
		return err
	}
	var settings map[string]any
	if err := yaml.UnmarshalStrict(text, &settings); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var missing []string
	settings = m.relocate(settings, &missing).(map[string]any)
	for _, place := range missing {
		r.problem(part, "the configuration names %s, which is in no volume or folder of the server", place)
	}
	text, err = yaml.Marshal(settings)
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.folder+path, text, 0o600); err != nil {
		return err
	}
	return r.askKasbah(part, m, m.folder+path)
}

func (r *run) askKasbah(part string, m *machine, file string) error {
	command := exec.Command(r.kasbah, "--output", "json", "config", "check", "--config", file)
	command.Env = append(os.Environ(), m.environment...)
	var complaint bytes.Buffer
	command.Stderr = &complaint
	output, err := command.Output()
	var report struct {
		OK       bool
		Problems []struct{ Path, Message string }
	}
	if json.Unmarshal(output, &report) != nil {
		return fmt.Errorf("kasbah config check: %v: %s", err, complaint.String())
	}
	for _, problem := range report.Problems {
		r.problem(part, "kasbah refuses %s: %s", problem.Path, problem.Message)
	}
	if !report.OK && len(report.Problems) == 0 {
		return fmt.Errorf("kasbah config check says that the configuration is not fine, and not why")
	}
	return nil
}

// checkCommand asks `kasbah` whether it has the subcommand and the options of a command line.
func (r *run) checkCommand(part string, words []string) {
	var subcommand, options []string
	for _, word := range words {
		switch {
		case strings.HasPrefix(word, "--"):
			options = append(options, strings.SplitN(word, "=", 2)[0])
		case len(options) == 0:
			subcommand = append(subcommand, word)
		}
	}
	help, err := exec.Command(r.kasbah, append(subcommand, "--help")...).CombinedOutput()
	if err != nil {
		r.problem(part, "kasbah has no `%s`", strings.Join(subcommand, " "))
		return
	}
	known := strings.Fields(string(help))
	for _, option := range options {
		if !contains(known, option) {
			r.problem(part, "`kasbah %s` has no option %s", strings.Join(subcommand, " "), option)
		}
	}
}

func contains(list []string, wanted string) bool {
	for _, entry := range list {
		if entry == wanted {
			return true
		}
	}
	return false
}

// rootKey is a secret that passes for a root key, a PIN and a password.
const rootKey = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

// certificate makes a self-signed certificate and its private key, in PEM.
func certificate() (string, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kas.example"},
		DNSNames: []string{"kas.example"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(90 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return "", "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", private), nil
}

// Command flow administers keys of a running server the way a client of the platform does, with
// messages and stubs that nobody here wrote, and checks every answer.
//
//	flow INPUT            registers a KAS, a provider and a key, rotates the key
//	flow INPUT cleanup    deletes what that left behind
//
// INPUT is a file with one JSON object, see input. Prints one line of JSON when everything was as
// expected; otherwise says on standard error which step was not, and ends with status 1.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opentdf/platform/protocol/go/kas"
	"github.com/opentdf/platform/protocol/go/policy"
	"github.com/opentdf/platform/protocol/go/policy/kasregistry"
	"github.com/opentdf/platform/protocol/go/policy/keymanagement"
	"github.com/opentdf/platform/protocol/go/policy/unsafe"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

const (
	callTimeout  = 20 * time.Second
	wholeTimeout = 2 * time.Minute
)

// input says where the server is and what to administer. Keys of the maps are kids.
type input struct {
	URL          string            `json:"url"`   // host:port, plain text
	Token        string            `json:"token"` // an administrator's
	KasURI       string            `json:"kas_uri"`
	Module       string            `json:"module"`         // name of a PKCS#11 module
	TokenLabel   string            `json:"token_label"`    // label of a PKCS#11 token
	Pin          string            `json:"pin"`            // name of its PIN
	RemoteKeyIDs map[string]string `json:"remote_key_ids"` // private_key_ctx.key_id
	PublicKeys   map[string]string `json:"public_keys"`    // PEM
	Algorithm    string            `json:"algorithm"`      // of both keys, such as rsa:2048

	// OtherBaseKeyID is the UUID of a key to make the base key before g2 is deleted. For cleanup.
	OtherBaseKeyID string `json:"other_base_key_id"`
}

// flow is one run. What the steps learn from answers is below the clients.
type flow struct {
	input
	algorithm policy.Algorithm

	keys      kasregistry.KeyAccessServerRegistryServiceClient
	providers keymanagement.KeyManagementServiceClient
	unsafe    unsafe.UnsafeServiceClient
	access    kas.AccessServiceClient

	kasID    string
	provider *policy.KeyProviderConfig
	g1, g2   *policy.KasKey
}

type step struct {
	name string
	run  func(context.Context) error
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "flow:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 1 || len(args) > 2 || (len(args) == 2 && args[1] != "cleanup") {
		return errors.New("usage: flow INPUT [cleanup]")
	}
	in, err := readInput(args[0])
	if err != nil {
		return err
	}
	f, err := connect(in)
	if err != nil {
		return err
	}
	steps := f.setUp()
	if len(args) == 2 {
		steps = f.cleanUp()
	}
	ctx, cancel := context.WithTimeout(context.Background(), wholeTimeout)
	defer cancel()
	for i, step := range steps {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("step %d of %d (%s):\n%w", i+1, len(steps), step.name, err)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"ok":          true,
		"g1_id":       f.g1.GetKey().GetId(),
		"g2_id":       f.g2.GetKey().GetId(),
		"provider_id": f.provider.GetId(),
	})
}

func readInput(path string) (input, error) {
	var in input
	file, err := os.Open(path)
	if err != nil {
		return in, err
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return in, fmt.Errorf("%s: %w", path, err)
	}
	for _, kid := range []string{"g1", "g2"} {
		if in.RemoteKeyIDs[kid] == "" || in.PublicKeys[kid] == "" {
			return in, fmt.Errorf("%s: remote_key_ids and public_keys must have %s", path, kid)
		}
	}
	return in, nil
}

var algorithms = map[string]policy.Algorithm{
	"rsa:2048":     policy.Algorithm_ALGORITHM_RSA_2048,
	"rsa:4096":     policy.Algorithm_ALGORITHM_RSA_4096,
	"ec:secp256r1": policy.Algorithm_ALGORITHM_EC_P256,
	"ec:secp384r1": policy.Algorithm_ALGORITHM_EC_P384,
	"ec:secp521r1": policy.Algorithm_ALGORITHM_EC_P521,
}

func connect(in input) (*flow, error) {
	algorithm, known := algorithms[in.Algorithm]
	if !known {
		return nil, fmt.Errorf("algorithm %q is not known", in.Algorithm)
	}
	conn, err := grpc.NewClient(in.URL,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(authorized(in.Token)))
	if err != nil {
		return nil, fmt.Errorf("url %q: %w", in.URL, err)
	}
	return &flow{
		input:     in,
		algorithm: algorithm,
		keys:      kasregistry.NewKeyAccessServerRegistryServiceClient(conn),
		providers: keymanagement.NewKeyManagementServiceClient(conn),
		unsafe:    unsafe.NewUnsafeServiceClient(conn),
		access:    kas.NewAccessServiceClient(conn),
	}, nil
}

// authorized gives every call the token and a deadline.
func authorized(token string) grpc.UnaryClientInterceptor {
	return func(
		ctx context.Context, method string, request, reply any,
		conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption,
	) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
		return invoke(ctx, method, request, reply, conn, options...)
	}
}

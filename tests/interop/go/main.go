// Command client encrypts and decrypts with the platform's SDK for Go, against a running Kasbah.
//
//	client encrypt [-alg ALGORITHM] [-attribute FQN] URL CREDENTIALS TDF  < plaintext
//	client decrypt [-session ALGORITHM] URL CREDENTIALS TDF               > plaintext
//
// With -alg the TDF is wrapped with the key that the server hands out for it; without, the SDK finds
// the key by itself: that of the attribute, or the base key.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/opentdf/platform/lib/ocrypto"
	"github.com/opentdf/platform/sdk"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: client encrypt|decrypt [OPTION...] URL CREDENTIALS TDF")
	}
	options := flag.NewFlagSet(args[0], flag.ContinueOnError)
	algorithm := options.String("alg", "", "of the server's key")
	attribute := options.String("attribute", "", "of the data")
	session := options.String("session", string(ocrypto.RSA2048Key), "of the client's key")
	if err := options.Parse(args[1:]); err != nil {
		return err
	}
	if options.NArg() != 3 {
		return errors.New("expected URL CREDENTIALS TDF")
	}
	url, credentials, tdf := options.Arg(0), options.Arg(1), options.Arg(2)
	client, err := connect(url, credentials)
	if err != nil {
		return err
	}
	defer client.Close()
	switch args[0] {
	case "encrypt":
		return encrypt(client, url, tdf, *algorithm, *attribute)
	case "decrypt":
		return decrypt(client, tdf, ocrypto.KeyType(*session))
	}
	return fmt.Errorf("unknown command %s", args[0])
}

// connect asks for the server's health, as the platform's own command does. The SDK has its token
// bound to a key of its own.
func connect(url, file string) (*sdk.SDK, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var credentials struct{ ClientID, ClientSecret string }
	if err := json.Unmarshal(text, &credentials); err != nil {
		return nil, err
	}
	return sdk.New(url,
		sdk.WithClientCredentials(credentials.ClientID, credentials.ClientSecret, nil),
		sdk.WithInsecurePlaintextConn(),
		sdk.WithConnectionValidation(),
	)
}

func encrypt(client *sdk.SDK, url, tdf, algorithm, attribute string) error {
	plaintext, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	var options []sdk.TDFOption
	if algorithm != "" {
		kas := sdk.KASInfo{URL: url, Algorithm: algorithm, Default: true}
		options = append(options, sdk.WithKasInformation(kas), sdk.WithAutoconfigure(false))
	}
	if attribute != "" {
		options = append(options, sdk.WithDataAttributes(attribute))
	}
	var encrypted bytes.Buffer
	if _, err := client.CreateTDF(&encrypted, bytes.NewReader(plaintext), options...); err != nil {
		return err
	}
	return os.WriteFile(tdf, encrypted.Bytes(), 0o600)
}

// decrypt asks the server which key access servers there are, as the SDK does unless told not to.
func decrypt(client *sdk.SDK, tdf string, session ocrypto.KeyType) error {
	encrypted, err := os.ReadFile(tdf)
	if err != nil {
		return err
	}
	reader, err := client.LoadTDF(bytes.NewReader(encrypted), sdk.WithSessionKeyType(session))
	if err != nil {
		return err
	}
	_, err = reader.WriteTo(os.Stdout)
	return err
}

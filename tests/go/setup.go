package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/opentdf/platform/protocol/go/common"
	"github.com/opentdf/platform/protocol/go/kas"
	"github.com/opentdf/platform/protocol/go/policy"
	"github.com/opentdf/platform/protocol/go/policy/kasregistry"
	"github.com/opentdf/platform/protocol/go/policy/keymanagement"
	"github.com/opentdf/platform/protocol/go/policy/unsafe"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	manager      = "opentdf.io/hsm"
	nameSent     = "Go-Main"
	nameStored   = "go-main"
	unknownID    = "00000000-0000-4000-8000-000000000000"
	publishDelay = 10 * time.Second
)

func (f *flow) setUp() []step {
	return []step{
		{"register the KAS", f.registerKAS},
		{"create the provider configuration", f.createProvider},
		{"create it again", f.createProviderAgain},
		{"get it in every way", f.getProvider},
		{"list provider configurations one by one", f.listProviders},
		{"create g1", f.createKey},
		{"create g1 again", f.createKeyAgain},
		{"create a remote key without a provider", f.createKeyWithoutProvider},
		{"get g1 in every way", f.getKey},
		{"list keys of the KAS and the algorithm", f.listKeys},
		{"make g1 the base key", f.setBaseKey},
		{"get g1 from the KAS", f.publishes("g1")},
		{"rotate g1 to g2", f.rotate},
		{"see the rotation", f.rotated},
		{"get g2 from the KAS", f.publishes("g2")},
		{"keep what is in use", f.deleteInUse},
	}
}

func (f *flow) registerKAS(ctx context.Context) error {
	_, err := f.keys.GetKeyAccessServer(ctx, byURI(f.KasURI+"/unknown"))
	if err := refused("GetKeyAccessServer of an unknown uri", err,
		codes.NotFound, "resource not found"); err != nil {
		return err
	}
	_, err = f.keys.GetKeyAccessServer(ctx, byURI(f.KasURI))
	if status.Code(err) == codes.NotFound {
		err = f.createKAS(ctx)
	}
	if err != nil {
		return err
	}
	answer, err := f.keys.GetKeyAccessServer(ctx, byURI(f.KasURI))
	if err != nil {
		return called("GetKeyAccessServer", err)
	}
	server := answer.GetKeyAccessServer()
	f.kasID = server.GetId()
	return errors.Join(
		isUUID("key_access_server.id", server.GetId()),
		equal("key_access_server.uri", server.GetUri(), f.KasURI),
		hasTimes("key_access_server", server.GetMetadata()),
	)
}

func (f *flow) createKAS(ctx context.Context) error {
	answer, err := f.keys.CreateKeyAccessServer(ctx, &kasregistry.CreateKeyAccessServerRequest{
		Uri:        f.KasURI,
		Name:       "Go-KAS",
		SourceType: policy.SourceType_SOURCE_TYPE_INTERNAL,
	})
	if err != nil {
		return called("CreateKeyAccessServer", err)
	}
	created := answer.GetKeyAccessServer()
	return errors.Join(
		isUUID("created key_access_server.id", created.GetId()),
		equal("created key_access_server.uri", created.GetUri(), f.KasURI),
		equal("created key_access_server.name", created.GetName(), "go-kas"),
		equal("created key_access_server.source_type",
			created.GetSourceType(), policy.SourceType_SOURCE_TYPE_INTERNAL),
		equal("created key_access_server: keys", len(created.GetKasKeys()), 0),
	)
}

func (f *flow) createProvider(ctx context.Context) error {
	config, err := f.configJSON()
	if err != nil {
		return err
	}
	answer, err := f.providers.CreateProviderConfig(ctx,
		&keymanagement.CreateProviderConfigRequest{
			Name:       nameSent,
			Manager:    manager,
			ConfigJson: config,
			Metadata:   labels("of", "go"),
		})
	if err != nil {
		return called("CreateProviderConfig", err)
	}
	f.provider = answer.GetProviderConfig()
	return errors.Join(
		isUUID("provider_config.id", f.provider.GetId()),
		hasTimes("provider_config", f.provider.GetMetadata()),
		sameProvider("provider_config", f.provider, &policy.KeyProviderConfig{
			Id:         f.provider.GetId(),
			Name:       nameStored,
			Manager:    manager,
			ConfigJson: config,
			Metadata:   &common.Metadata{Labels: map[string]string{"of": "go"}},
		}),
	)
}

// configJSON is spaced and ordered as nobody else would, to see that it comes back as it was sent.
func (f *flow) configJSON() ([]byte, error) {
	quoted := make([]any, 3)
	for i, value := range []string{f.TokenLabel, f.Pin, f.Module} {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		quoted[i] = text
	}
	return fmt.Appendf(nil, "{ \"token\":%s ,\n\t\"pin\" :  %s,\"module\": %s }", quoted...), nil
}

func (f *flow) createProviderAgain(ctx context.Context) error {
	_, err := f.providers.CreateProviderConfig(ctx, &keymanagement.CreateProviderConfigRequest{
		Name: nameStored, Manager: manager, ConfigJson: f.provider.GetConfigJson(),
	})
	return refused("CreateProviderConfig", err,
		codes.AlreadyExists, "resource unique field violation")
}

func (f *flow) getProvider(ctx context.Context) error {
	byName := providerNamed(nameSent, manager)
	for what, request := range map[string]*keymanagement.GetProviderConfigRequest{
		"id": providerOf(f.provider.GetId()), "name_manager": byName,
	} {
		answer, err := f.providers.GetProviderConfig(ctx, request)
		if err != nil {
			return called("GetProviderConfig by "+what, err)
		}
		if err := same("provider_config by "+what,
			answer.GetProviderConfig(), f.provider); err != nil {
			return err
		}
	}
	_, byOldName := f.providers.GetProviderConfig(ctx, &keymanagement.GetProviderConfigRequest{
		// Deprecated, and the server has to say so.
		Identifier: &keymanagement.GetProviderConfigRequest_Name{Name: nameStored},
	})
	_, byUnknownID := f.providers.GetProviderConfig(ctx, providerOf(unknownID))
	_, byOtherCase := f.providers.GetProviderConfig(ctx, providerNamed(nameStored, "OpenTDF.io/hsm"))
	return errors.Join(
		refused("GetProviderConfig by deprecated name", byOldName,
			codes.InvalidArgument, "identifier is deprecated"),
		refused("GetProviderConfig by unknown id", byUnknownID,
			codes.NotFound, "resource not found"),
		refused("GetProviderConfig by manager in other case", byOtherCase,
			codes.NotFound, "resource not found"),
	)
}

func (f *flow) listProviders(ctx context.Context) error {
	seen := map[string]bool{}
	for offset, total := int32(0), int32(1); offset < total; offset++ {
		answer, err := f.providers.ListProviderConfigs(ctx,
			&keymanagement.ListProviderConfigsRequest{
				Pagination: &policy.PageRequest{Limit: 1, Offset: offset},
			})
		if err != nil {
			return called("ListProviderConfigs", err)
		}
		configs, page := answer.GetProviderConfigs(), answer.GetPagination()
		if offset == 0 {
			total = page.GetTotal()
		}
		next := offset + 1
		if next >= total {
			next = 0
		}
		at := fmt.Sprintf("page at offset %d of %d: ", offset, total)
		if err := errors.Join(
			equal(at+"length", len(configs), 1),
			same(at+"pagination", page,
				&policy.PageResponse{CurrentOffset: offset, NextOffset: next, Total: total}),
		); err != nil {
			return err
		}
		id := configs[0].GetId()
		if seen[id] {
			return fmt.Errorf("  %s%s was on an earlier page", at, id)
		}
		seen[id] = true
		if id == f.provider.GetId() {
			if err := same(at+"provider_config", configs[0], f.provider); err != nil {
				return err
			}
		}
	}
	return equal("the provider configuration is on a page", seen[f.provider.GetId()], true)
}

func (f *flow) createKey(ctx context.Context) error {
	answer, err := f.keys.CreateKey(ctx, f.newKey("g1"))
	if err != nil {
		return called("CreateKey", err)
	}
	f.g1 = answer.GetKasKey()
	return errors.Join(f.isKey("g1", f.g1, policy.KeyStatus_KEY_STATUS_ACTIVE),
		hasTimes("kas_key.key", f.g1.GetKey().GetMetadata()))
}

func (f *flow) createKeyAgain(ctx context.Context) error {
	_, err := f.keys.CreateKey(ctx, f.newKey("g1"))
	return refused("CreateKey", err, codes.AlreadyExists, "resource unique field violation")
}

func (f *flow) createKeyWithoutProvider(ctx context.Context) error {
	request := f.newKey("g2")
	request.ProviderConfigId = ""
	_, err := f.keys.CreateKey(ctx, request)
	return violates("CreateKey", err, "provider_config_id_optionally_required")
}

func (f *flow) getKey(ctx context.Context) error {
	for what, request := range map[string]*kasregistry.GetKeyRequest{
		"uri and kid": f.keyNamed("g1"), "id": keyOf(f.g1.GetKey().GetId()),
	} {
		answer, err := f.keys.GetKey(ctx, request)
		if err != nil {
			return called("GetKey by "+what, err)
		}
		if err := same("kas_key by "+what, answer.GetKasKey(), f.g1); err != nil {
			return err
		}
	}
	_, byUnknownKid := f.keys.GetKey(ctx, f.keyNamed("g2"))
	_, byUnknownID := f.keys.GetKey(ctx, keyOf(unknownID))
	return errors.Join(
		refused("GetKey by unknown kid", byUnknownKid, codes.NotFound, "resource not found"),
		refused("GetKey by unknown id", byUnknownID, codes.NotFound, "resource not found"),
	)
}

func (f *flow) listKeys(ctx context.Context) error {
	answer, err := f.keys.ListKeys(ctx, &kasregistry.ListKeysRequest{
		KeyAlgorithm: f.algorithm,
		KasFilter:    &kasregistry.ListKeysRequest_KasUri{KasUri: f.KasURI},
	})
	if err != nil {
		return called("ListKeys", err)
	}
	found := answer.GetKasKeys()
	problems := []error{equal("pagination.total", int(answer.GetPagination().GetTotal()), len(found))}
	matches := 0
	for _, key := range found {
		kid := key.GetKey().GetKeyId()
		problems = append(problems,
			equal("kas_uri of "+kid, key.GetKasUri(), f.KasURI),
			equal("key_algorithm of "+kid, key.GetKey().GetKeyAlgorithm(), f.algorithm))
		if kid == "g1" {
			matches++
			problems = append(problems, sameKey("g1 in the list", key, f.g1))
		}
	}
	problems = append(problems, equal("number of keys g1 in the list", matches, 1))
	_, err = f.keys.ListKeys(ctx, &kasregistry.ListKeysRequest{
		KasFilter: &kasregistry.ListKeysRequest_KasUri{KasUri: f.KasURI + "/unknown"},
	})
	return errors.Join(append(problems, refused("ListKeys of an unknown KAS", err,
		codes.NotFound, "resource not found"))...)
}

func (f *flow) setBaseKey(ctx context.Context) error {
	answer, err := f.keys.SetBaseKey(ctx, &kasregistry.SetBaseKeyRequest{
		ActiveKey: &kasregistry.SetBaseKeyRequest_Key{Key: f.identifier("g1")},
	})
	if err != nil {
		return called("SetBaseKey", err)
	}
	return errors.Join(same("new_base_key", answer.GetNewBaseKey(), f.simpleKey("g1")),
		f.hasBaseKey(ctx, "g1"))
}

func (f *flow) hasBaseKey(ctx context.Context, kid string) error {
	answer, err := f.keys.GetBaseKey(ctx, &kasregistry.GetBaseKeyRequest{})
	if err != nil {
		return called("GetBaseKey", err)
	}
	return same("base_key", answer.GetBaseKey(), f.simpleKey(kid))
}

// publishes waits until the KAS hands out the key: it may learn of keys with a delay.
func (f *flow) publishes(kid string) func(context.Context) error {
	return func(ctx context.Context) error {
		deadline := time.Now().Add(publishDelay)
		for {
			err := f.isPublished(ctx, kid)
			if err == nil || time.Now().After(deadline) {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
}

func (f *flow) isPublished(ctx context.Context, kid string) error {
	answer, err := f.access.PublicKey(ctx, &kas.PublicKeyRequest{Algorithm: f.Algorithm, V: "2"})
	if err != nil {
		return called("PublicKey", err)
	}
	got, _ := pem.Decode([]byte(answer.GetPublicKey()))
	want, _ := pem.Decode([]byte(f.PublicKeys[kid]))
	if want == nil {
		return fmt.Errorf("  public_keys.%s of the input is no PEM", kid)
	}
	if got == nil || got.Type != want.Type || !bytes.Equal(got.Bytes, want.Bytes) {
		return fmt.Errorf("  PublicKey (kid %q): expected %q, got %q",
			answer.GetKid(), f.PublicKeys[kid], answer.GetPublicKey())
	}
	return equal("PublicKey: kid", answer.GetKid(), kid)
}

func (f *flow) rotate(ctx context.Context) error {
	key := f.newKey("g2")
	answer, err := f.keys.RotateKey(ctx, &kasregistry.RotateKeyRequest{
		ActiveKey: &kasregistry.RotateKeyRequest_Key{Key: f.identifier("g1")},
		NewKey: &kasregistry.RotateKeyRequest_NewKey{
			KeyId:            key.GetKeyId(),
			Algorithm:        key.GetKeyAlgorithm(),
			KeyMode:          key.GetKeyMode(),
			PublicKeyCtx:     key.GetPublicKeyCtx(),
			PrivateKeyCtx:    key.GetPrivateKeyCtx(),
			ProviderConfigId: key.GetProviderConfigId(),
			Metadata:         key.GetMetadata(),
		},
	})
	if err != nil {
		return called("RotateKey", err)
	}
	f.g2 = answer.GetKasKey()
	rotated := answer.GetRotatedResources()
	moved := len(rotated.GetAttributeDefinitionMappings()) +
		len(rotated.GetAttributeValueMappings()) + len(rotated.GetNamespaceMappings())
	return errors.Join(
		f.isKey("g2", f.g2, policy.KeyStatus_KEY_STATUS_ACTIVE),
		f.isKey("g1", rotated.GetRotatedOutKey(), policy.KeyStatus_KEY_STATUS_ROTATED),
		equal("id of rotated_out_key",
			rotated.GetRotatedOutKey().GetKey().GetId(), f.g1.GetKey().GetId()),
		equal("number of moved mappings", moved, 0),
	)
}

func (f *flow) rotated(ctx context.Context) error {
	first, err := f.keys.GetKey(ctx, keyOf(f.g1.GetKey().GetId()))
	if err != nil {
		return called("GetKey of g1", err)
	}
	second, err := f.keys.GetKey(ctx, f.keyNamed("g2"))
	if err != nil {
		return called("GetKey of g2", err)
	}
	f.g1 = first.GetKasKey()
	return errors.Join(
		f.isKey("g1", f.g1, policy.KeyStatus_KEY_STATUS_ROTATED),
		same("g2", second.GetKasKey(), f.g2),
		f.hasBaseKey(ctx, "g2"),
	)
}

func (f *flow) deleteInUse(ctx context.Context) error {
	_, ofProvider := f.providers.DeleteProviderConfig(ctx,
		&keymanagement.DeleteProviderConfigRequest{Id: f.provider.GetId()})
	remove := func(id, kid, uri string) error {
		_, err := f.unsafe.UnsafeDeleteKasKey(ctx,
			&unsafe.UnsafeDeleteKasKeyRequest{Id: id, Kid: kid, KasUri: uri})
		return err
	}
	g1, g2 := f.g1.GetKey().GetId(), f.g2.GetKey().GetId()
	return errors.Join(
		refused("DeleteProviderConfig of one with keys", ofProvider,
			codes.InvalidArgument, "resource relation invalid"),
		refused("UnsafeDeleteKasKey of g1 as g2", remove(g1, "g2", f.KasURI),
			codes.InvalidArgument, "key id mismatch"),
		refused("UnsafeDeleteKasKey of g1 of another KAS", remove(g1, "g1", f.KasURI+"/unknown"),
			codes.InvalidArgument, "kas uri mismatch"),
		refused("UnsafeDeleteKasKey of an unknown id", remove(unknownID, "g1", f.KasURI),
			codes.NotFound, "resource not found"),
		refused("UnsafeDeleteKasKey of the base key", remove(g2, "g2", f.KasURI),
			codes.InvalidArgument, "resource relation invalid"),
	)
}

// newKey asks for a remote key of the provider.
func (f *flow) newKey(kid string) *kasregistry.CreateKeyRequest {
	return &kasregistry.CreateKeyRequest{
		KasId:            f.kasID,
		KeyId:            kid,
		KeyAlgorithm:     f.algorithm,
		KeyMode:          policy.KeyMode_KEY_MODE_REMOTE,
		PublicKeyCtx:     f.publicKeyCtx(kid),
		PrivateKeyCtx:    &policy.PrivateKeyCtx{KeyId: f.RemoteKeyIDs[kid]},
		ProviderConfigId: f.provider.GetId(),
		Metadata:         labels("kid", kid),
	}
}

// isKey checks that got is what newKey asked for.
func (f *flow) isKey(kid string, got *policy.KasKey, status policy.KeyStatus) error {
	return errors.Join(
		isUUID("id of "+kid, got.GetKey().GetId()),
		sameKey(kid, got, &policy.KasKey{
			KasId:  f.kasID,
			KasUri: f.KasURI,
			Key: &policy.AsymmetricKey{
				Id:             got.GetKey().GetId(),
				KeyId:          kid,
				KeyAlgorithm:   f.algorithm,
				KeyStatus:      status,
				KeyMode:        policy.KeyMode_KEY_MODE_REMOTE,
				PublicKeyCtx:   f.publicKeyCtx(kid),
				PrivateKeyCtx:  &policy.PrivateKeyCtx{KeyId: f.RemoteKeyIDs[kid]},
				ProviderConfig: f.provider,
				Metadata:       &common.Metadata{Labels: map[string]string{"kid": kid}},
			},
		}),
	)
}

// publicKeyCtx has the PEM in base64, as everywhere but in a SimpleKasKey.
func (f *flow) publicKeyCtx(kid string) *policy.PublicKeyCtx {
	encoded := base64.StdEncoding.EncodeToString([]byte(f.PublicKeys[kid]))
	return &policy.PublicKeyCtx{Pem: encoded}
}

func (f *flow) simpleKey(kid string) *policy.SimpleKasKey {
	return &policy.SimpleKasKey{
		KasUri: f.KasURI,
		KasId:  f.kasID,
		PublicKey: &policy.SimpleKasPublicKey{
			Algorithm: f.algorithm, Kid: kid, Pem: f.PublicKeys[kid],
		},
	}
}

func (f *flow) identifier(kid string) *kasregistry.KasKeyIdentifier {
	return &kasregistry.KasKeyIdentifier{
		Identifier: &kasregistry.KasKeyIdentifier_Uri{Uri: f.KasURI}, Kid: kid,
	}
}

func (f *flow) keyNamed(kid string) *kasregistry.GetKeyRequest {
	return &kasregistry.GetKeyRequest{
		Identifier: &kasregistry.GetKeyRequest_Key{Key: f.identifier(kid)},
	}
}

func keyOf(id string) *kasregistry.GetKeyRequest {
	return &kasregistry.GetKeyRequest{Identifier: &kasregistry.GetKeyRequest_Id{Id: id}}
}

func byURI(uri string) *kasregistry.GetKeyAccessServerRequest {
	return &kasregistry.GetKeyAccessServerRequest{
		Identifier: &kasregistry.GetKeyAccessServerRequest_Uri{Uri: uri},
	}
}

func providerOf(id string) *keymanagement.GetProviderConfigRequest {
	return &keymanagement.GetProviderConfigRequest{
		Identifier: &keymanagement.GetProviderConfigRequest_Id{Id: id},
	}
}

func providerNamed(name, manager string) *keymanagement.GetProviderConfigRequest {
	return &keymanagement.GetProviderConfigRequest{
		Identifier: &keymanagement.GetProviderConfigRequest_NameManager_{
			NameManager: &keymanagement.GetProviderConfigRequest_NameManager{
				Name: name, Manager: manager,
			},
		},
	}
}

func labels(name, value string) *common.MetadataMutable {
	return &common.MetadataMutable{Labels: map[string]string{name: value}}
}

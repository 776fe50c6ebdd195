package main

import (
	"context"
	"errors"

	"github.com/opentdf/platform/protocol/go/policy"
	"github.com/opentdf/platform/protocol/go/policy/kasregistry"
	"github.com/opentdf/platform/protocol/go/policy/keymanagement"
	"github.com/opentdf/platform/protocol/go/policy/unsafe"
	"google.golang.org/grpc/codes"
)

func (f *flow) cleanUp() []step {
	steps := []step{{"find what is there", f.find}}
	if f.OtherBaseKeyID != "" {
		steps = append(steps, step{"make another key the base key", f.replaceBaseKey})
	}
	return append(steps,
		step{"delete g1", func(ctx context.Context) error { return f.deleteKey(ctx, f.g1) }},
		step{"delete g2", func(ctx context.Context) error { return f.deleteKey(ctx, f.g2) }},
		step{"delete the provider configuration", f.deleteProvider},
	)
}

func (f *flow) find(ctx context.Context) error {
	first, err := f.keys.GetKey(ctx, f.keyNamed("g1"))
	if err != nil {
		return called("GetKey of g1", err)
	}
	second, err := f.keys.GetKey(ctx, f.keyNamed("g2"))
	if err != nil {
		return called("GetKey of g2", err)
	}
	answer, err := f.providers.GetProviderConfig(ctx, providerNamed(nameStored, manager))
	if err != nil {
		return called("GetProviderConfig", err)
	}
	f.g1, f.g2, f.provider = first.GetKasKey(), second.GetKasKey(), answer.GetProviderConfig()
	f.kasID = f.g1.GetKasId()
	return nil
}

func (f *flow) replaceBaseKey(ctx context.Context) error {
	other, err := f.keys.GetKey(ctx, keyOf(f.OtherBaseKeyID))
	if err != nil {
		return called("GetKey of other_base_key_id", err)
	}
	answer, err := f.keys.SetBaseKey(ctx, &kasregistry.SetBaseKeyRequest{
		ActiveKey: &kasregistry.SetBaseKeyRequest_Id{Id: f.OtherBaseKeyID},
	})
	if err != nil {
		return called("SetBaseKey", err)
	}
	kid := other.GetKasKey().GetKey().GetKeyId()
	return errors.Join(
		equal("new_base_key: kid", answer.GetNewBaseKey().GetPublicKey().GetKid(), kid),
		same("previous_base_key", answer.GetPreviousBaseKey(), f.simpleKey("g2")),
	)
}

func (f *flow) deleteKey(ctx context.Context, key *policy.KasKey) error {
	id, kid := key.GetKey().GetId(), key.GetKey().GetKeyId()
	answer, err := f.unsafe.UnsafeDeleteKasKey(ctx,
		&unsafe.UnsafeDeleteKasKeyRequest{Id: id, Kid: kid, KasUri: f.KasURI})
	if err != nil {
		return called("UnsafeDeleteKasKey", err)
	}
	_, afterwards := f.keys.GetKey(ctx, keyOf(id))
	return errors.Join(
		equal("key.kas_uri", answer.GetKey().GetKasUri(), f.KasURI),
		equal("key.key.id", answer.GetKey().GetKey().GetId(), id),
		equal("key.key.key_id", answer.GetKey().GetKey().GetKeyId(), kid),
		refused("GetKey afterwards", afterwards, codes.NotFound, "resource not found"),
	)
}

func (f *flow) deleteProvider(ctx context.Context) error {
	id := f.provider.GetId()
	answer, err := f.providers.DeleteProviderConfig(ctx,
		&keymanagement.DeleteProviderConfigRequest{Id: id})
	if err != nil {
		return called("DeleteProviderConfig", err)
	}
	_, afterwards := f.providers.GetProviderConfig(ctx, providerOf(id))
	return errors.Join(
		equal("provider_config.id", answer.GetProviderConfig().GetId(), id),
		refused("GetProviderConfig afterwards", afterwards, codes.NotFound, "resource not found"),
	)
}

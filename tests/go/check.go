package main

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/opentdf/platform/protocol/go/common"
	"github.com/opentdf/platform/protocol/go/policy"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// called names the call whose error is not nil.
func called(method string, err error) error {
	if err != nil {
		return fmt.Errorf("  %s failed: %w", method, err)
	}
	return nil
}

// equal compares one value of an answer.
func equal[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("  %s: expected %v, got %v", what, want, got)
	}
	return nil
}

// same compares all fields of a message.
func same(what string, got, want proto.Message) error {
	if !proto.Equal(got, want) {
		text := protojson.MarshalOptions{UseProtoNames: true}
		return fmt.Errorf("  %s:\n    expected %s\n    got      %s",
			what, text.Format(want), text.Format(got))
	}
	return nil
}

func isUUID(what, got string) error {
	if !uuid.MatchString(got) {
		return fmt.Errorf("  %s: expected a UUID, got %q", what, got)
	}
	return nil
}

// refused checks the code and the whole text of an error.
func refused(what string, err error, code codes.Code, text string) error {
	got, _ := status.FromError(err)
	return errors.Join(
		equal(what+": code", got.Code(), code),
		equal(what+": text", got.Message(), text),
	)
}

// violates checks for a validation error with this one violation.
func violates(what string, err error, rule string) error {
	got, _ := status.FromError(err)
	problems := []error{equal(what+": code", got.Code(), codes.InvalidArgument)}
	if text := got.Message(); !strings.HasPrefix(text, "validation error:") ||
		!strings.Contains(text, "["+rule+"]") {
		problems = append(problems, fmt.Errorf(
			"  %s: expected the text of a validation error with [%s], got %q", what, rule, text))
	}
	var rules []string
	for _, detail := range got.Details() {
		if detail, ok := detail.(*validate.Violations); ok {
			for _, violation := range detail.GetViolations() {
				rules = append(rules, violation.GetRuleId())
			}
		}
	}
	return errors.Join(append(problems,
		equal(what+": rules in detail buf.validate.Violations", strings.Join(rules, " "), rule))...)
}

// hasTimes checks what only the server can say of a row.
func hasTimes(what string, got *common.Metadata) error {
	created, updated := got.GetCreatedAt(), got.GetUpdatedAt()
	if !created.IsValid() || !updated.IsValid() || updated.AsTime().Before(created.AsTime()) {
		return fmt.Errorf("  %s: expected metadata with created_at <= updated_at, got %v", what, got)
	}
	return nil
}

func withoutTimes(of *common.Metadata) {
	if of != nil {
		of.CreatedAt, of.UpdatedAt = nil, nil
	}
}

// sameProvider compares all but the times.
func sameProvider(what string, got, want *policy.KeyProviderConfig) error {
	got, want = proto.CloneOf(got), proto.CloneOf(want)
	withoutTimes(got.GetMetadata())
	withoutTimes(want.GetMetadata())
	return same(what, got, want)
}

// sameKey compares all but the times.
func sameKey(what string, got, want *policy.KasKey) error {
	got, want = proto.CloneOf(got), proto.CloneOf(want)
	for _, key := range []*policy.KasKey{got, want} {
		withoutTimes(key.GetKey().GetMetadata())
		withoutTimes(key.GetKey().GetProviderConfig().GetMetadata())
	}
	return same(what, got, want)
}

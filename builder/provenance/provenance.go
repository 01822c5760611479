// Package provenance says what an image was made from, in a form that tools for
// supply chains read: an in-toto statement (v1) whose predicate is SLSA's
// provenance (v1). Its subjects are the files of the output with their digests.
// Equal builds give equal bytes, so it has no time at which it ran.
//
//	https://github.com/in-toto/attestation/tree/main/spec/v1
//	https://slsa.dev/spec/v1.0/provenance
//
// A statement may be signed with minisign's key, for sites without a network, or
// with an ECDSA P-256 key in a DSSE envelope as cosign makes and checks it.
package provenance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Values of the fields that say how the rest is to be read.
const (
	statementType = "https://in-toto.io/Statement/v1"
	predicateType = "https://slsa.dev/provenance/v1"
	// buildType names what the parameters mean: those of `ward build`.
	buildType = "urn:ward:build:v1"
	builderID = "urn:ward:builder"
	// payloadType is DSSE's name for an in-toto statement.
	payloadType = "application/vnd.in-toto+json"
)

// Statement is an in-toto statement.
type Statement struct {
	Type          string     `json:"_type"`
	Subject       []Resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     Predicate  `json:"predicate"`
}

// Resource is a thing with digests: algorithm -> hex.
type Resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// Predicate is SLSA's provenance.
type Predicate struct {
	BuildDefinition Definition `json:"buildDefinition"`
	RunDetails      Details    `json:"runDetails"`
}

// Definition is what went in.
type Definition struct {
	BuildType            string     `json:"buildType"`
	ExternalParameters   any        `json:"externalParameters"`           // what somebody asked for
	InternalParameters   any        `json:"internalParameters,omitempty"` // what the builder added
	ResolvedDependencies []Resource `json:"resolvedDependencies"`
}

// Details say who did it.
type Details struct {
	Builder  Builder  `json:"builder"`
	Metadata Metadata `json:"metadata"`
}

// Builder is the program that built.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

// Metadata names the run: by the digest of its inputs.
type Metadata struct {
	InvocationID string `json:"invocationId"`
}

// New makes the statement of a build. subjects are the output's files, name ->
// SHA-256 in hex.
func New(subjects map[string]string, external, internal any, inputs []Resource, digest, version string) *Statement {
	s := &Statement{Type: statementType, PredicateType: predicateType}
	for _, name := range slices.Sorted(maps.Keys(subjects)) {
		s.Subject = append(s.Subject, Resource{Name: name, Digest: map[string]string{"sha256": subjects[name]}})
	}
	s.Predicate = Predicate{
		BuildDefinition: Definition{BuildType: buildType, ExternalParameters: external, InternalParameters: internal, ResolvedDependencies: inputs},
		RunDetails:      Details{Builder: Builder{ID: builderID, Version: map[string]string{"ward": version}}, Metadata: Metadata{InvocationID: digest}},
	}
	return s
}

// Read reads a statement that New made.
func Read(data []byte) (*Statement, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	s := &Statement{}
	if err := d.Decode(s); err != nil {
		return nil, err
	}
	if s.Type != statementType || s.PredicateType != predicateType || s.Predicate.BuildDefinition.BuildType != buildType {
		return nil, fmt.Errorf("is a %q about a %q of a %q, not the provenance that ward writes", s.Type, s.PredicateType, s.Predicate.BuildDefinition.BuildType)
	}
	return s, nil
}

// Subjects are the files that the statement is about, name -> SHA-256 in hex.
func (s *Statement) Subjects() map[string]string {
	all := map[string]string{}
	for _, r := range s.Subject {
		all[r.Name] = r.Digest["sha256"]
	}
	return all
}

package images

import (
	"strings"
	"testing"

	"ward/images/strict"
	"ward/images/strict/stricttest"
)

func TestSchema(t *testing.T) {
	stricttest.Golden(t, stricttest.Schema{Type: Image{}, Need: strict.Complete, Title: "ward image", File: "schema.json"})
	for _, name := range Names() {
		text, err := embedded.ReadFile(name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if err := stricttest.Validate(t, "schema.json", text); err != nil {
			t.Errorf("the schema refuses %s: %v", name, err)
		}
	}
	if err := stricttest.Validate(t, "schema.json", []byte(good)); err != nil {
		t.Errorf("the schema refuses what Load accepts: %v", err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{"keyring:", "keyrings:", "keyrings"},
		{"arch: amd64\n", "", "arch"},
		{"g++", "'g++; reboot'", "/packages/1"},
		{"qcow2]", "qcow]", "/formats/1"},
		{`"12"`, "12", "/release"},
	} {
		err := stricttest.Validate(t, "schema.json", []byte(strings.Replace(good, tt.old, tt.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("the schema says %v of %q, want an error about %s", err, tt.new, tt.want)
		}
	}
}

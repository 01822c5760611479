package profiles

import (
	"strings"
	"testing"

	"ward/images/strict"
	"ward/images/strict/stricttest"
)

func TestSchema(t *testing.T) {
	stricttest.Golden(t, stricttest.Schema{Type: Profile{}, Need: strict.Partial, Title: "ward profile", File: "schema.json"})
	for _, name := range Names() {
		text, err := embedded.ReadFile(name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if err := stricttest.Validate(t, "schema.json", text); err != nil {
			t.Errorf("the schema refuses %s: %v", name, err)
		}
	}
	for _, tt := range []struct{ text, want string }{
		{"extends: hipaa", "name"},
		{"name: a\nsshd: {}", "sshd"},
		{"name: a\ncontrols: {sshd: {max_auth_tries: 9}}", "/controls/sshd/max_auth_tries"},
		{"name: a\ncontrols: {phi: {key_sources: [devise]}}", "/controls/phi/key_sources/0"},
		{"name: a\ncontrols: {phi: {volumes: [{name: archive}]}}", "mount"},
		{"name: a\ncontrols: {phi: {volumes: [{name: archive, mount: /home/a}]}}", "/controls/phi/volumes/0/mount"},
		{"name: a\nwaivers: [{control: sshd, reason: r, expires: 2027-06-30}]", "owner"},
		{"name: a\nwaivers: [{control: sshd, reason: r, owner: o, expires: 30.6.2027}]", "/waivers/0/expires"},
	} {
		err := stricttest.Validate(t, "schema.json", []byte(tt.text))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("the schema says %v of %q, want an error about %s", err, tt.text, tt.want)
		}
	}
}

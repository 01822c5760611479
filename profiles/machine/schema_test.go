package machine

import (
	"strings"
	"testing"

	"ward/images/strict"
	"ward/images/strict/stricttest"
)

func TestSchema(t *testing.T) {
	stricttest.Golden(t, stricttest.Schema{Type: Machine{}, Need: strict.Complete, Title: "ward machine", File: "schema.json"})
	good := makeParts(t).file()
	if err := stricttest.Validate(t, "schema.json", []byte(good)); err != nil {
		t.Errorf("the schema refuses what Load accepts: %v", err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{"hostname: db1.example.org\n", "", "hostname"},
		{"full_name:", "fullname:", "fullname"},
		{"sudo: true", "sudo: 1", "/people/0/sudo"},
		{"    server: log.example.org:6514\n", "", "server"},
	} {
		err := stricttest.Validate(t, "schema.json", []byte(strings.Replace(good, tt.old, tt.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("the schema says %v of %q, want an error about %s", err, tt.new, tt.want)
		}
	}
}

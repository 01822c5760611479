package builder

import (
	"reflect"
	"strings"
	"testing"
)

func TestReadRPM(t *testing.T) {
	const out = "openssl-libs\t1:3.2.2-6.el9_5\tx86_64\topenssl-3.2.2-6.el9_5.src.rpm\tASL 2.0\n" +
		"gpg-pubkey\t350d275d-6279464b\t(none)\t(none)\tpubkey\n" +
		"bash\t5.1.8-9.el9\tx86_64\tbash-5.1.8-9.el9.src.rpm\t(GPLv3+ and MIT) or BSD\n"
	got, err := databases["rpm"].parse(nil, out)
	want := []Package{
		{"bash", "5.1.8-9.el9", "x86_64", "bash", "5.1.8-9.el9", []string{"BSD", "GPLv3+", "MIT"}},
		{"openssl-libs", "1:3.2.2-6.el9_5", "x86_64", "openssl", "3.2.2-6.el9_5", []string{"ASL 2.0"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parse() = %v, %v, want %v", got, err, want)
	}
	for name, c := range map[string]struct{ out, want string }{
		"nothing": {"", "rpm: no package is installed"},
		"a key":   {"gpg-pubkey\t1-2\t(none)\t(none)\tpubkey\n", "rpm: no package is installed"},
		"text":    {"error: rpmdb open failed\n", "rpm: cannot read"},
	} {
		if _, err := databases["rpm"].parse(nil, c.out); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: parse() = %v, want an error that says %q", name, err, c.want)
		}
	}
}

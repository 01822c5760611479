package firstboot

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ward/profiles/machine"
)

func TestNetwork(t *testing.T) {
	root, dir := openRoot(t)
	m := &Machine{root: root}
	n := &machine.Network{Address: "10.1.2.3/24", Gateway: "10.1.2.1", DNS: []string{"10.1.2.1", "10.1.2.2"}}
	for range 2 {
		if err := m.network(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(dir, networkPath)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"DHCP=no\n", "Address=10.1.2.3/24\n", "Gateway=10.1.2.1\n", "DNS=10.1.2.1\nDNS=10.1.2.2\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in\n%s", want, b)
		}
	}
	for range 2 { // without an address DHCP is asked again
		if err := m.network(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(name); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}

func TestPlatform(t *testing.T) {
	for id, want := range map[string]string{
		"qemu": "", "openstack": "", "aws": "ignition.platform.id=aws: this platform is not supported: its metadata service is not asked\nhint: give the config by firmware configuration",
		"vmware": "ignition.platform.id=vmware: this platform is not supported",
	} {
		m, _, _ := served(t, func(*httptest.Server) string { return "ignition.platform.id=" + id })
		err := m.checkPlatform()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", id, err, want)
		}
	}
}

package qemutests

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"ward/builder/proof"
	"ward/builder/proof/lab"
	"ward/builder/vm"
	config "ward/profiles/machine"
)

// TestSafeguards uses the safeguards as people do who work with the machine:
// somebody leaves and comes back, an emergency begins and ends, a reviewer looks
// for what was done. The two configs come by the sources that the other tests do
// not use.
func TestSafeguards(t *testing.T) {
	t.Parallel()
	compiled := func(people []config.Person) []byte {
		c := shared.fixture.Config
		c.People = people
		data, err := config.Compile(&c)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	machine(t)
	state := filepath.Join(t.TempDir(), "machine")
	everybody := shared.fixture.Config.People
	clerk := shared.fixture.Clerk
	left := slices.DeleteFunc(slices.Clone(everybody), func(p config.Person) bool { return p.Name == clerk.Name })
	if len(left) != len(everybody)-1 {
		t.Fatalf("%d of %d people are left without %s", len(left), len(everybody), clerk.Name)
	}
	m, f, r := reboot(t, func(c *vm.Config) {
		c.State, c.Ignition = state, ""
		c.Disks = append(c.Disks, configDrive(t, compiled(left)))
	})
	allPass(t, r)
	root := rootShell(t, m, f)

	t.Run("ConfigDrive", func(t *testing.T) { appliedFrom(t, m, root, "config drive") })
	t.Run("WhoLeavesIsOut", func(t *testing.T) {
		if err := tryLogin(t, m, clerk.Name, clerk.Key); err == nil || !strings.Contains(err.Error(), "unable to authenticate, attempted methods [none publickey]") {
			t.Errorf("login of a person who is not in the config any more: %v, want it refused for the key", err)
		}
		// The number stays taken: the records name it.
		out := run(t, m, root, "getent passwd "+clerk.Name+"; passwd --status "+clerk.Name+"; id -Gn "+clerk.Name+"; ls -A /home/"+clerk.Name+"/.ssh")
		if !strings.Contains(out, "nologin") || !strings.Contains(out, clerk.Name+" L ") || strings.Contains(out, "phi-access") || strings.Contains(out, "authorized_keys") {
			t.Errorf("what is left of the account:\n%s", out)
		}
	})
	t.Run("Audit", func(t *testing.T) { auditFinds(t, m, f, root) })
	t.Run("Breakglass", func(t *testing.T) { emergency(t, m, f, root) })
	powerDown(t, m)
	m.Close()

	// Back again, by the URL of the kernel line.
	i := image(t)
	c := withoutFirmware(f.VM(i), i)
	c.Image, c.State, c.Ignition = shared.disk, state, ""
	address := serveHTTPS(t, f.Lab.CA, "/config.ign", compiled(everybody))
	pin := sha256.Sum256(f.Lab.CA.Cert.Raw)
	c.Append = i.Manifest.Cmdline + " ignition.config.url=https://" + address + "/config.ign ward.config.ca=sha256:" + hex.EncodeToString(pin[:])
	m = start(t, c)
	allPass(t, verdict(t, m, r.BootID))
	root = rootShell(t, m, f)
	t.Run("ConfigByHTTPS", func(t *testing.T) { appliedFrom(t, m, root, "kernel line") })
	t.Run("WhoComesBackIsIn", func(t *testing.T) {
		if err := tryLogin(t, m, clerk.Name, clerk.Key); err != nil {
			t.Errorf("login of a person who is in the config again: %v", err)
		}
	})
	powerDown(t, m)
}

// appliedFrom expects that the machine applied a config from a source.
func appliedFrom(t *testing.T, m *vm.VM, root *vm.RootShell, source string) {
	t.Helper()
	if out := run(t, m, root, "cat /var/lib/ward/apply.json"); !strings.Contains(strings.ReplaceAll(out, `": "`, `":"`), `"from":"`+source+`"`) {
		t.Errorf("the config is not from the %s: %s", source, out)
	}
}

// configDrive is a small disk with a config on it.
func configDrive(t *testing.T, content []byte) vm.Disk {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "root", "ignition"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "root", "ignition", "config.ign"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "drive.img")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-L", "ignition", "-d", filepath.Join(dir, "root"), file, "4M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	return vm.Disk{File: file, Format: "raw", Serial: "ward-config", ReadOnly: true}
}

// serveHTTPS serves one file on the host's loopback interface and returns where
// a machine finds it.
func serveHTTPS(t *testing.T, ca *lab.Authority, name string, content []byte) string {
	t.Helper()
	pair, err := ca.Issue(lab.Leaf{Names: []string{"config.ward.test"}, Addrs: []string{vm.HostAddr}})
	if err != nil {
		t.Fatal(err)
	}
	// The pin is of the authority, so the chain has to have it.
	cert, err := tls.X509KeyPair(append(slices.Clone(pair.Cert), ca.PEM...), pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: log.New(t.Output(), "config server: ", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != name {
			http.NotFound(w, r)
			return
		}
		w.Write(content)
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return fmt.Sprintf("%s:%d", vm.HostAddr, listener.Addr().(*net.TCPAddr).Port)
}

// tryLogin tries to log in with a key and to run a command.
func tryLogin(t *testing.T, m *vm.VM, user string, key ssh.Signer) error {
	t.Helper()
	ctx := within(t, m, 30*time.Second)
	client, err := proof.Login(ctx, m, proof.Person{Name: user, Key: key})
	if err != nil {
		return err
	}
	defer client.Close()
	name, err := vm.Command(ctx, client, "", "id -un")
	if err == nil && strings.TrimSpace(name) != user {
		err = fmt.Errorf("id -un said %q", name)
	}
	return err
}

// word is a new name, short enough for the kernel to keep the whole of it as the
// name of a program (15 characters).
func word() string { return "w" + strings.ToLower(rand.Text()[:10]) }

// auditFinds does what the guide wants recorded, once for each key, under a name
// that no other process has, and looks for it as a reviewer does.
func auditFinds(t *testing.T, m *vm.VM, f *proof.Fixture, root *vm.RootShell) {
	const same = "--reference=%[1]s %[1]s" // what chmod is given to change nothing
	keys := "/home/" + f.Admin.Name + "/.ssh/authorized_keys"
	acts := []struct{ key, program, args string }{
		{"phi_access", "cat", phi + "/MARK"},
		{"app_access", "touch", "/opt/app/MARK"},
		{"user_changes", "chmod", fmt.Sprintf(same, "/etc/passwd")},
		{"shadow_changes", "chmod", fmt.Sprintf(same, "/etc/shadow")},
		{"group_changes", "chmod", fmt.Sprintf(same, "/etc/group")},
		{"sudoers_changes", "chmod", fmt.Sprintf(same, "/etc/sudoers")},
		{"auth_log", "chmod", fmt.Sprintf(same, "/var/log/auth.log")},
		{"ssh_key_changes", "chmod", fmt.Sprintf(same, keys)},
		{"root_commands", "id", "-u"}, // not one of the shell's own
		// Not in the PHI folder: what happens there has the key phi_access, whose rule comes first.
		{"file_deletion", "rm", "/var/tmp/MARK"},
		{"permission_changes", "chmod", fmt.Sprintf(same, "/etc/hostname")},
		{"time_change", "date", "--set=now"},
		{"host_name", "hostname", "--file /etc/hostname"},
	}
	mark := word()
	script := "set -e; : >" + phi + "/" + mark + "; : >/var/tmp/" + mark + "\n"
	names := make([]string, len(acts))
	for i, a := range acts {
		names[i] = word()
		args := strings.ReplaceAll(a.args, "MARK", mark)
		script += fmt.Sprintf("ln -s $(command -v %s) /run/%[2]s; /run/%[2]s %[3]s >/dev/null; rm /run/%[2]s\n", a.program, names[i], args)
	}
	run(t, m, root, script+"rm "+phi+"/"+mark+" /opt/app/"+mark)
	for i, a := range acts {
		// auditd writes a moment after the fact.
		out, code, err := root.Run(within(t, m, time.Minute), fmt.Sprintf(
			"for i in 1 2 3 4 5 6 7 8; do ausearch --input-logs -k %s -c %s -ts recent -i 2>/dev/null && exit 0; sleep 1; done; exit 1", a.key, names[i]))
		if err != nil {
			t.Fatal(err)
		}
		if code != 0 || !strings.Contains(out, "auid="+f.Admin.Name) {
			t.Errorf("ausearch -k %s: exit code %d, want %s by %s:\n%s", a.key, code, a.program, f.Admin.Name, out)
		}
	}
	// The record is elsewhere too, before anybody could remove it here.
	i := slices.IndexFunc(acts, func(a struct{ key, program, args string }) bool { return a.key == "phi_access" })
	if _, err := f.Lab.Logs.Expect(within(t, m, time.Minute), `comm="`+names[i]+`"`, "phi_access"); err != nil {
		t.Error(err)
	}
}

// emergency opens the emergency account for two minutes and sees all that follows.
func emergency(t *testing.T, m *vm.VM, f *proof.Fixture, root *vm.RootShell) {
	user := image(t).Profile.Controls.Breakglass.User
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(when string) {
		t.Helper()
		if err := tryLogin(t, m, user, key); err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
			t.Errorf("login of the emergency account %s: %v, want it refused", when, err)
		}
	}
	refused("before it is opened")
	const open = 2 * time.Minute
	reason := "the directory is down, " + word()
	out := run(t, m, root, fmt.Sprintf("echo '%s' >/run/bg.pub && wardctl breakglass open --reason '%s' --for %s --key /run/bg.pub; s=$?; rm /run/bg.pub; exit $s",
		strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey()))), reason, open))
	opened := time.Now()
	if !strings.Contains(out, user+" is open until") {
		t.Errorf("breakglass open said %q", out)
	}
	client, err := proof.Login(within(t, m, 30*time.Second), m, proof.Person{Name: user, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	act := word()
	if out, err := vm.Command(within(t, m, 30*time.Second), client, "", "sudo -n id -u && ln -s /bin/true /tmp/"+act+" && /tmp/"+act+" && rm /tmp/"+act); err != nil || out != "0\n" {
		t.Errorf("in an emergency: %q, %v, want root's number", out, err)
	}
	line, err := f.Lab.Logs.Expect(within(t, m, 30*time.Second), reason)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("on the log server at most %s after the command: %s", time.Since(opened).Round(time.Second), line)
	if !strings.Contains(line, "emergency account "+user+" is opened by "+f.Admin.Name) {
		t.Errorf("the log server got %q, want who opened it", line)
	}
	if line, err := f.Lab.Logs.Expect(within(t, m, 30*time.Second), `comm="`+act+`"`); err != nil {
		t.Error(err)
	} else if !strings.Contains(line, "breakglass") {
		t.Errorf("the log server got %q, want the key breakglass in it", line)
	}

	ended := make(chan error, 1)
	go func() { ended <- client.Wait() }()
	line, err = f.Lab.Logs.Expect(within(t, m, open+30*time.Second), "emergency account "+user+" is sealed by")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("sealed after %s: %s", time.Since(opened).Round(time.Second), line)
	if early := open - time.Since(opened); early > 5*time.Second {
		t.Errorf("it was sealed %s before its time", early)
	}
	select {
	case <-ended:
	case <-within(t, m, 30*time.Second).Done():
		t.Error("the account is sealed, and its session goes on")
	}
	refused("after its time")
	if out, code, err := root.Run(within(t, m, time.Minute), "wardctl verify --control breakglass"); err != nil || code != 0 {
		t.Errorf("verify after the emergency: exit code %d, %v: %s", code, err, out)
	}
}

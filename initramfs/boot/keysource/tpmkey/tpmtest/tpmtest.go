// Package tpmtest starts a software TPM for tests.
package tpmtest

import (
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
)

// Start runs swtpm(8) with its state in dir; off ends it, as a machine that is
// switched off does.
func Start(t testing.TB, dir string) (tpm transport.TPM, off func()) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "tpm.sock")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	off = sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() })
	t.Cleanup(off)
	var conn net.Conn
	var err error
	for range 300 {
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return transport.FromReadWriter(conn), off
}

package qemutests

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ward/builder/proof/lab"
	machinefile "ward/profiles/machine"
)

// trusted is the side that keeps the repository: restic on the host, on the
// repository's own folder.
type trusted struct {
	folder   string
	password string // file
}

func trust(t *testing.T, folder, password string) trusted {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return trusted{folder: folder, password: file}
}

func (r trusted) command(t *testing.T, args ...string) *exec.Cmd {
	c := exec.Command(program(t, "restic"), append([]string{"--no-cache", "-r", r.folder, "--password-file", r.password}, args...)...)
	c.Env = append(os.Environ(), "LC_ALL=C")
	return c
}

func (r trusted) restic(t *testing.T, args ...string) string {
	t.Helper()
	out, err := r.command(t, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("restic %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

type resticSnapshot struct {
	ID    string   `json:"id"`
	Tags  []string `json:"tags"`
	Host  string   `json:"hostname"`
	Paths []string `json:"paths"`
}

func (r trusted) snapshots(t *testing.T) []resticSnapshot {
	t.Helper()
	var all []resticSnapshot
	if err := json.Unmarshal([]byte(r.restic(t, "snapshots", "--json", "--no-lock")), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// change gives the repository another password, on the trusted side.
func (r *trusted) change(t *testing.T, password string) {
	t.Helper()
	file := r.password + ".new"
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.restic(t, "key", "passwd", "--new-password-file", file)
	if err := os.Rename(file, r.password); err != nil {
		t.Fatal(err)
	}
}

// lock lets another restic work on the repository: a backup whose input does not
// end yet.
func (r trusted) lock(t *testing.T) (do, undo func(*testing.T)) {
	t.Helper()
	cmd := r.command(t, "backup", "--stdin", "--host", "elsewhere")
	in, out := io.Pipe()
	cmd.Stdin = in
	return func(t *testing.T) {
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			for range 300 {
				if locks, _ := filepath.Glob(filepath.Join(r.folder, "locks", "*")); len(locks) > 0 {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			t.Fatal("the other restic takes no lock")
		}, func(t *testing.T) {
			out.Write([]byte("done\n"))
			out.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		}
}

// rest is restic's REST server with a repository of one machine.
type rest struct {
	server *lab.BackupServer
	pair   lab.Pair
	addr   string
	side   trusted
	backup *machinefile.Backup // what the machine was told
}

// start starts the server with room for so many bytes; 0: no limit.
func (s *rest) start(t *testing.T, bytes int64) {
	t.Helper()
	if s.server != nil {
		if err := s.server.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if s.server, err = lab.StartBackupServerAt(s.addr, s.pair, filepath.Dir(s.side.folder), bytes); err != nil {
		t.Fatal(err)
	}
}

// flip turns one byte in the middle of the largest pack around; twice is as it was.
func (s *rest) flip(t *testing.T) {
	t.Helper()
	var largest string
	var most int64
	filepath.Walk(filepath.Join(s.side.folder, "data"), func(name string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && info.Size() > most {
			largest, most = name, info.Size()
		}
		return nil
	})
	if most == 0 {
		t.Fatal("the repository has no pack")
	}
	if err := os.Chmod(largest, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(largest, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, most/2); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := file.WriteAt(b, most/2); err != nil {
		t.Fatal(err)
	}
}

func size(t *testing.T, folder string) (bytes int64) {
	t.Helper()
	err := filepath.Walk(folder, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			bytes += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

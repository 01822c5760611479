package builder

import (
	"os"
	"path/filepath"
	"testing"
)

// A folder that a killed build left goes, one that a build works in stays, and so
// does that of another output whose name begins alike.
func TestWorkFolderRemovesWhatWasLeft(t *testing.T) {
	parent := t.TempDir()
	busy, busyLock, err := workFolder(parent, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer busyLock.Close()
	left, leftLock, err := workFolder(parent, "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "disk.raw"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	leftLock.Close() // as the kernel does for the killed
	other := filepath.Join(parent, ".a-final")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	mine, mineLock, err := workFolder(parent, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer mineLock.Close()
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v), want it removed", left, err)
	}
	for _, dir := range []string{busy, mine, other} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("%v, want the folder kept", err)
		}
	}
}

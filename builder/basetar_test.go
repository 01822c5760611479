package builder

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestCompressed(t *testing.T) {
	text := strings.Repeat("a tar ", 1<<20)
	fail := errors.New("the mirror is down")
	for name, c := range map[string]struct {
		make func(string) error
		want error
	}{
		"another program writes": {func(fifo string) error {
			cmd := exec.Command("sh", "-c", `cat >"$1"`, "sh", fifo)
			cmd.Stdin = strings.NewReader(text)
			return cmd.Run()
		}, nil},
		"written in two pieces": {func(fifo string) error {
			for _, part := range []string{text[:100], text[100:]} { // as a program that opens its output again
				f, err := os.OpenFile(fifo, os.O_WRONLY|os.O_APPEND, 0)
				if err != nil {
					return err
				}
				io.WriteString(f, part)
				if err := f.Close(); err != nil {
					return err
				}
			}
			return nil
		}, nil},
		"it never opens it":      {func(string) error { return fail }, fail},
		"it removes it and ends": {func(fifo string) error { return errors.Join(os.Remove(fifo), fail) }, fail},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, baseFile)
			if err := compressed(file, c.make); !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
				t.Fatalf("compressed() = %v, want %v", err, c.want)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
				t.Errorf("there is %v (%v), want the file alone", entries, err)
			}
			if c.want != nil {
				return
			}
			r, err := openBase(file)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || string(got) != text {
				t.Errorf("%d bytes come back (%v), want %d", len(got), err, len(text))
			}
		})
	}
}

// What cannot be written is told, and the program that makes it comes to its end.
func TestCompressedCannotWrite(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, baseFile)
	if err := os.WriteFile(file, nil, 0o600); err != nil { // in the way
		t.Fatal(err)
	}
	err := compressed(file, func(fifo string) error {
		return exec.Command("sh", "-c", `head -c 1000000 /dev/zero >"$1"`, "sh", fifo).Run()
	})
	if !errors.Is(err, os.ErrExist) {
		t.Errorf("compressed() = %v, want that the file is there", err)
	}
}

package proof

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// write writes the documents, each whole or not at all.
func (t *test) write() error {
	if t.Report == "" {
		return nil
	}
	if err := os.MkdirAll(t.Report, 0o755); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	for _, d := range []struct {
		name string
		to   func(io.Writer) error
	}{
		{"report.json", t.proof.Encode},
		{"junit.xml", t.proof.JUnit},
		{"report.html", t.proof.HTML},
		{"console.log", func(w io.Writer) error { _, err := w.Write(t.console); return err }},
	} {
		var b bytes.Buffer
		if err := d.to(&b); err != nil {
			return fmt.Errorf("report: %s: %w", d.name, err)
		}
		if err := replace(filepath.Join(t.Report, d.name), b.Bytes()); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	}
	t.say("written: report.json, junit.xml, report.html and console.log in %s", t.Report)
	return nil
}

// replace writes a file by temp, fsync and rename.
func replace(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone after the rename
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

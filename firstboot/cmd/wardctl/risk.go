package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ward/firstboot/risk"
)

// riskDir keeps the snapshots; six years by policy, 45 CFR 164.316(b)(2)(i).
const riskDir = "/var/log/ward/risk"

func riskCommand(open opener) *cobra.Command {
	dir := riskDir
	c := &cobra.Command{
		Use:   "risk-report",
		Short: "write the snapshot that a risk analysis starts from",
		Long: `risk-report writes what the machine is, who can get in, what protects it, what is
open and what is pending, as a page for people and as JSON, signs the JSON with the
machine's SSH host key and sends it to the log server. ward-risk.timer does it
weekly; the snapshots are kept, six years by policy. Verify one with
  ssh-keygen -Y verify -f ALLOWED -I HOST -n ward-risk -s FILE.json.sig < FILE.json`,
		Example: "  wardctl risk-report",
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := open()
			if err != nil {
				return err
			}
			defer m.Close()
			last, err := m.LastReport()
			if err != nil {
				return err
			}
			s := risk.Collect(c.Context(), risk.Options{Run: m.Run, Now: time.Now, Release: m.Release(), Profile: m.Profile(), Report: last, Mounts: m.PHI()})
			name := filepath.Join(dir, s.Time.Format("20060102T150405Z"))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			b, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				return err
			}
			var page bytes.Buffer
			if err := s.WriteHTML(&page); err != nil {
				return err
			}
			for ext, content := range map[string][]byte{".json": append(b, '\n'), ".html": page.Bytes()} {
				if err := writeWhole(name+ext, content); err != nil {
					return err
				}
			}
			if err := m.Sign(c.Context(), "ward-risk", name+".json"); err != nil {
				return err
			}
			if err := m.Send("risk snapshot", name+".json", append(b, '\n')); err != nil {
				return fmt.Errorf("send %s.json: %w", name, err)
			}
			out := c.OutOrStdout()
			fmt.Fprintf(out, "%s.html\n%s.json\n%s.json.sig\n", name, name, name)
			for _, missing := range s.Missing {
				fmt.Fprintf(out, "could not look: %s\n", missing)
			}
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", dir, "`FOLDER` to write into")
	return c
}

// writeWhole writes a file that was not there, to the disk.
func writeWhole(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

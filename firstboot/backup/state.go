package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// StateVersion is the version of State's JSON; a reader refuses another one.
const StateVersion = 1

// State is what the last runs came to; it survives reboots.
type State struct {
	Version     int       `json:"version"`
	Initialised time.Time `json:"initialised"`           // when the repository was made or first found; zero: never
	Attempt     time.Time `json:"attempt"`               // start of the last run
	Success     time.Time `json:"success"`               // end of the last run that succeeded; zero: none has
	Kind        Kind      `json:"kind,omitempty"`        // of the last run's fault; empty: none
	Error       string    `json:"error,omitempty"`       // and its text
	Snapshot    string    `json:"snapshot,omitempty"`    // of the last success
	Files       int64     `json:"files,omitempty"`       // in it
	Bytes       int64     `json:"bytes,omitempty"`       // in it
	Seconds     float64   `json:"seconds,omitempty"`     // that it took
	CheckPart   int       `json:"check_part,omitempty"`  // the last part that was read back, 1 to CheckParts
	CheckError  string    `json:"check_error,omitempty"` // empty: what was read back is what was written
}

// Summary is the state on one line: what wardctl status says of the backup.
func (s *State) Summary() string {
	last := "no copy yet"
	if !s.Success.IsZero() {
		last = fmt.Sprintf("last copy %s, %d files, %.1f MB", s.Success.UTC().Format("2006-01-02 15:04 MST"), s.Files, float64(s.Bytes)/1e6)
	}
	if s.Kind == "" {
		return last
	}
	fault := strings.Join(strings.Fields(s.Error), " ")
	return fmt.Sprintf("FAILED %s: %.300s (%s)", s.Kind, fault, last)
}

// ReadState reads a state; a file that is not there is the zero State.
func ReadState(file string) (*State, error) {
	s := &State{Version: StateVersion}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("state of the backup: %w", err)
	}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, fmt.Errorf("state of the backup: %s: %w", file, err)
	}
	if s.Version != StateVersion {
		return nil, fmt.Errorf("state of the backup: %s has version %d, want %d", file, s.Version, StateVersion)
	}
	return s, nil
}

// WriteJSON replaces a file by v, mode 0600: whole or not at all.
func WriteJSON(file string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", file, err), os.Remove(f.Name()))
	}
	return nil
}

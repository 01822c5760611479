package machine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"ward/images/strict"
)

// Load reads a machine file and validates it. The error has one line for each
// fault, with file, line, field and what to do.
func Load(file string) (*Machine, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("machine %s: there is no such file", file)
	}
	if err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	return parse(strict.Shown(file), data, time.Now())
}

// parse is Load of bytes on a given day, which decides which certificates are over.
func parse(shown string, data []byte, now time.Time) (*Machine, error) {
	d, err := strict.Parse(shown, data)
	if err != nil {
		return nil, err
	}
	var m Machine
	d.Decode(&m, strict.Complete)
	check{&m, d, now}.all()
	if err := d.Err(); err != nil {
		return nil, err
	}
	return &m, nil
}

// Read reads the machine's own copy, JSON.
func Read(file string) (*Machine, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var m Machine
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("machine %s: %w", file, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("machine %s: something follows the machine", file)
	}
	return &m, nil
}

package vm

import (
	"bytes"
	"fmt"

	"ward/profiles/evidence"
)

const (
	reportMax  = 8 << 20 // bytes of one report
	reportsMax = 64      // reports that nobody has asked for yet
)

// reports collects the lines of the verdict port, one JSON report a line. The
// bytes are the guest's: foreign.
type reports struct {
	partial []byte
	waiting [][]byte
	err     error
}

func (r *reports) write(p []byte) {
	if r.err != nil {
		return
	}
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			r.partial = append(r.partial, p...)
			p = nil
		} else {
			line := bytes.TrimSpace(append(r.partial, p[:i]...))
			r.partial, p = nil, p[i+1:]
			if len(line) > 0 {
				r.waiting = append(r.waiting, bytes.Clone(line))
			}
		}
		if len(r.partial) > reportMax {
			r.err = fmt.Errorf("verdict port: a report of more than %d bytes", reportMax)
			return
		}
		if len(r.waiting) > reportsMax {
			r.err = fmt.Errorf("verdict port: more than %d reports that nobody read", reportsMax)
			return
		}
	}
}

// reset forgets half a line: its writer is gone.
func (r *reports) reset() { r.partial = nil }

// next returns the oldest report, and nil when there is none.
func (r *reports) next() (*evidence.Report, error) {
	if len(r.waiting) == 0 {
		return nil, r.err
	}
	line := r.waiting[0]
	r.waiting = r.waiting[1:]
	report, err := evidence.Decode(bytes.NewReader(line))
	if err != nil {
		return nil, fmt.Errorf("verdict port: %w", err)
	}
	return report, nil
}

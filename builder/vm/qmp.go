package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
)

// monitor is a client of QEMU's machine protocol on a connected socket: one JSON
// object a line, see docs/interop/qmp-spec.txt of QEMU. It is small on purpose:
// what is wanted is a context on every command, which the client libraries lack.
type monitor struct {
	conn    net.Conn
	events  func(name string, data json.RawMessage)
	mu      sync.Mutex // one command at a time
	answers chan answer
	gone    chan struct{} // closed when the socket is
}

type answer struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string          `json:"event"`
	Data  json.RawMessage `json:"data"`
	QMP   json.RawMessage `json:"QMP"`
}

// qmpLineMax bounds one answer, in bytes.
const qmpLineMax = 4 << 20

func newMonitor(ctx context.Context, conn net.Conn, events func(string, json.RawMessage)) (*monitor, error) {
	q := &monitor{conn: conn, events: events, answers: make(chan answer), gone: make(chan struct{})}
	go q.read()
	if err := q.run(ctx, "qmp_capabilities", nil, nil); err != nil {
		conn.Close()
		return nil, err
	}
	return q, nil
}

func (q *monitor) read() {
	defer close(q.gone)
	s := bufio.NewScanner(q.conn)
	s.Buffer(nil, qmpLineMax)
	for s.Scan() {
		var a answer
		if err := json.Unmarshal(s.Bytes(), &a); err != nil {
			return
		}
		switch {
		case a.QMP != nil: // the greeting
		case a.Event != "":
			q.events(a.Event, a.Data)
		default:
			q.answers <- a
		}
	}
}

// run executes one command; out, when not nil, gets the decoded answer.
func (q *monitor) run(ctx context.Context, command string, args, out any) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, args})
	if err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	if _, err := q.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("qmp %s: %w", command, err)
	}
	select {
	case a := <-q.answers:
		if a.Error != nil {
			return fmt.Errorf("qmp %s: %s: %s", command, a.Error.Class, a.Error.Desc)
		}
		if out == nil {
			return nil
		}
		if err := json.Unmarshal(a.Return, out); err != nil {
			return fmt.Errorf("qmp %s: %w", command, err)
		}
		return nil
	case <-q.gone:
		return fmt.Errorf("qmp %s: %w", command, errors.New("qemu closed the connection"))
	case <-ctx.Done():
		// The answer, if one comes, would be taken for the next command's.
		q.conn.Close()
		return fmt.Errorf("qmp %s: %w", command, context.Cause(ctx))
	}
}

func (q *monitor) close() { q.conn.Close() }

// QMP executes a command of QEMU's machine protocol, for example device_add.
// out, when not nil, gets the decoded answer.
func (m *VM) QMP(ctx context.Context, command string, args, out any) error {
	return m.qmp.run(ctx, command, args, out)
}

// human executes a command of the human monitor and returns what it printed.
func (m *VM) human(ctx context.Context, line string) (string, error) {
	var out string
	err := m.qmp.run(ctx, "human-monitor-command", map[string]string{"command-line": line}, &out)
	return out, err
}

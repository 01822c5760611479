package firstboot

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path"
)

// DocumentMessage is the log message of one piece of a document.
const DocumentMessage = "document"

// pieceBytes is how much of a document goes into one log line. rsyslog cuts a
// message after 8 KiB (maxMessageSize), and the line has other fields too.
const pieceBytes = 4000

// Send puts a whole document into the log, and with it onto the log server,
// which this machine cannot alter: gzip, then base64, in numbered lines.
//
//	grep 'document="risk snapshot"' | sort by piece | sed 's/.*data=//' | base64 -d | gunzip
func (m *Machine) Send(what, file string, content []byte) error {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(content); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	text := base64.StdEncoding.EncodeToString(b.Bytes())
	pieces := (len(text) + pieceBytes - 1) / pieceBytes
	for i := range pieces {
		m.log.Info(DocumentMessage, "document", what, "file", path.Base(file), "sha256", hex.EncodeToString(sum[:]),
			"piece", fmt.Sprintf("%d/%d", i+1, pieces), "data", text[i*pieceBytes:min((i+1)*pieceBytes, len(text))])
	}
	return nil
}

// Sign writes FILE.sig: a signature by this machine's SSH host key, which
// `ssh-keygen -Y verify` compares, and whose public half the log server's side
// knows from any connection.
func (m *Machine) Sign(ctx context.Context, namespace, file string) error {
	if _, err := m.run(ctx, nil, "ssh-keygen", "-q", "-Y", "sign", "-n", namespace, "-f", path.Join(m.root.Name(), "etc/ssh/ssh_host_ed25519_key"), file); err != nil {
		return fmt.Errorf("sign %s: %w", file, err)
	}
	return nil
}

package control

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// keyTypes are the public keys that people may log in with. DSA is not among
// them: OpenSSH 7.0 switched it off, for its 1024 bits.
var keyTypes = []string{
	"ssh-ed25519", "sk-ssh-ed25519@openssh.com",
	"ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "sk-ecdsa-sha2-nistp256@openssh.com",
	"ssh-rsa",
}

// rsaBits is the shortest RSA key, as NIST SP 800-131A rev. 2 has it.
const rsaBits = 2048

// maxKeyLine is longer than a line with an RSA key of 16384 bits.
const maxKeyLine = 8192

// ParseKey reads one line of authorized_keys(5): a type, the key in base64 and
// a comment. Options in front are refused; what a person may do is not decided
// by a key. It returns the key itself, without the comment.
func ParseKey(line string) (key string, err error) {
	if len(line) > maxKeyLine {
		return "", fmt.Errorf("is longer than %d characters", maxKeyLine)
	}
	if strings.ContainsAny(line, "\n\r\x00") {
		return "", fmt.Errorf("is more than one line")
	}
	f := strings.Fields(line)
	if len(f) < 2 {
		return "", fmt.Errorf("is not TYPE KEY COMMENT, as in the .pub file of ssh-keygen")
	}
	if strings.Contains(line, "PRIVATE KEY") {
		return "", fmt.Errorf("is a private key; give the .pub file, and make a new pair")
	}
	if !slices.Contains(keyTypes, f[0]) {
		return "", fmt.Errorf("starts with %q; accepted are: %s", f[0], strings.Join(keyTypes, ", "))
	}
	blob, err := base64.StdEncoding.DecodeString(f[1])
	if err != nil {
		return "", fmt.Errorf("is cut or changed: %w", err)
	}
	name, rest, ok := cutString(blob)
	if !ok || string(name) != f[0] {
		return "", fmt.Errorf("says %s and holds another type of key, or none", f[0])
	}
	if len(rest) == 0 {
		return "", fmt.Errorf("ends after its type")
	}
	if f[0] == "ssh-rsa" {
		_, rest, ok = cutString(rest) // the exponent, RFC 4253 6.6
		n, rest, ok2 := cutString(rest)
		if !ok || !ok2 || len(rest) != 0 {
			return "", fmt.Errorf("is not an RSA key inside")
		}
		if bits := 8 * len(strings.TrimLeft(string(n), "\x00")); bits < rsaBits {
			return "", fmt.Errorf("has %d bits, want at least %d, or ed25519", bits, rsaBits)
		}
	}
	return f[0] + " " + f[1], nil
}

// cutString cuts an SSH string, RFC 4251 5, off the front of b.
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}

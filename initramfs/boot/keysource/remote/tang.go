package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"ward/initramfs/boot/keysource"
	"ward/initramfs/handoff"
)

// fromTang recovers the passphrase of a slot that `clevis luks bind` has made.
// The server's address is the source's; the one in the token is not asked.
func (f fetcher) fromTang(ctx context.Context, src handoff.Source, req keysource.Request) (*keysource.Key, error) {
	var last error = errors.New("the volume has no token of clevis with a tang server")
	for _, raw := range req.Tokens {
		if raw.Type != "clevis" {
			continue
		}
		t, h, err := parseToken(raw.JSON)
		if err != nil {
			last = err
			continue
		}
		if err := f.up(ctx, req); err != nil {
			return nil, err
		}
		client, err := pinnedClient(src, nil)
		if err != nil {
			return nil, err
		}
		key, err := recoverKey(ctx, client, src.URL, t, h)
		if err == nil {
			return key, nil
		}
		last = err
	}
	return nil, last
}

func recoverKey(ctx context.Context, client *http.Client, base string, t token, h header) (*keysource.Key, error) {
	r, err := newRecovery(h)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(r.request)
	if err != nil {
		return nil, err
	}
	url := strings.TrimSuffix(base, "/") + "/rec/" + h.Kid
	answer := make([]byte, 0, 4096)
	err = retry(ctx, func() error {
		post, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
		if err != nil {
			return final{err}
		}
		post.Header.Set("Content-Type", "application/jwk+json")
		return do(client, post, func(r io.Reader) error {
			answer, err = io.ReadAll(io.LimitReader(r, maxToken))
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	var k jwk
	if err := json.Unmarshal(answer, &k); err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	z, err := r.finish(k)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	defer clear(z)
	secret, err := t.decrypt(z)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return keysource.KeyFor(secret, t.slots())
}

func (t token) slots() []int {
	var out []int
	for _, s := range t.Keyslots {
		if n, err := s.Int64(); err == nil && n >= 0 && n < 32 {
			out = append(out, int(n))
		}
	}
	return out
}

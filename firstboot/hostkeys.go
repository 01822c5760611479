package firstboot

import "context"

// hostKeys makes the SSH host keys that are missing. An image has none, so that
// no two machines share one; the distribution makes them only when its package
// is installed.
func (m *Machine) hostKeys(ctx context.Context) error {
	_, err := m.run(ctx, nil, "ssh-keygen", "-A")
	return err
}

package firstboot

import "ward/profiles/control"

// Target is the machine for a command that changes it outside of apply.
func (m *Machine) Target() (*control.Target, error) {
	c, err := m.machineFile()
	if err != nil {
		return nil, err
	}
	return m.target(c), nil
}

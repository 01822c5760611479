package firstboot

import "ward/initramfs/handoff"

// quietVolume is a PHI volume that is open, this machine's own, and not in the
// middle of a reencryption.
type quietVolume struct {
	handoff.Volume
	pin handoff.Pin
}

// quietVolumes returns the volumes whose keys may be changed. During a reencryption
// cryptsetup adds no slot, and init refuses the volume, with any key.
func (m *Machine) quietVolumes() ([]quietVolume, error) {
	pins, err := m.pins()
	if err != nil {
		return nil, err
	}
	var all []quietVolume
	for _, v := range m.volumes() {
		pin, ok := pins.Find(v.Name)
		if !ok || !m.mapped(v.Name) {
			continue
		}
		busy, err := m.reencryption(v.Name)
		if err != nil {
			return nil, err
		}
		if busy == nil {
			all = append(all, quietVolume{v, pin})
		}
	}
	return all, nil
}

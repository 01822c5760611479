package firstboot

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"ward/images"
)

// platformArg is how Ignition is told where it runs, and with it where the config
// is: https://coreos.github.io/ignition/supported-platforms/.
const platformArg = "ignition.platform.id="

// checkPlatform refuses a platform whose way of giving a config is not one of ours,
// by its name: the machine would look like one that nobody configured.
func (m *Machine) checkPlatform() error {
	line, err := m.root.ReadFile("proc/cmdline")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for word := range strings.FieldsSeq(string(line)) {
		id, ok := strings.CutPrefix(word, platformArg)
		if ok && !slices.Contains(images.Platforms, id) {
			return errHint(fmt.Errorf("%s%s: this platform is not supported: its metadata service is not asked", platformArg, id), "give the config by %s", images.ConfigWays)
		}
	}
	return nil
}

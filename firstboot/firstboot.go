// Package firstboot finishes a machine on the machine itself: it applies the
// machine's Ignition config and every control of the profile in ordered,
// stamped, resumable steps (wardctl apply), and asks the running system whether
// every safeguard holds (wardctl verify). It never runs on a build host, but for
// [Install], with which the builder puts wardctl into an image's tree.
//
//	m, err := firstboot.Open("/", log)
//	err = m.Apply(ctx, firstboot.ApplyOptions{Boot: true})
//	report, err := m.Verify(ctx, nil)
package firstboot

// Where ward keeps its files on a machine, relative to /.
const (
	WardctlPath = "usr/sbin/wardctl"
	LibDir      = "usr/lib/ward"
	ProfilePath = "usr/lib/ward/profile.json"
	ImagePath   = "usr/lib/ward/image.json"
	InitPath    = "usr/lib/ward/init.json" // handoff.Config; 0600, it can hold a client key
	StateDir    = "var/lib/ward"
	ConfigPath  = "var/lib/ward/config.ign" // the config that was applied last; 0600
	ResultPath  = "var/lib/ward/apply.json"
	VerifyPath  = "var/lib/ward/verify.json"
	StampDir    = "var/lib/ward/steps"
)

package qemutests

// Tampers with the PHI volume and the encrypted folder in it.
const (
	phi      = "/var/data/phi"
	phiPart  = "$(blkid -t PARTLABEL=phi-data -o device)"
	trial    = phi + "/.ward/lock-trial"
	records  = phi + "/patient-records"
	pinsFile = "/etc/ward/pins.json"
)

// withKey runs a script in which $key is the key file on the key device.
func withKey(script string) string {
	return "set -e; mkdir -p /run/wardkey; mount -o ro LABEL=WARD-KEY /run/wardkey; trap 'umount /run/wardkey' EXIT; key=/run/wardkey/phi-data.key; " + script
}

func init() {
	tampers = append(tampers,
		tamper{control: "phi", name: "programs run from it", setting: "mount",
			do:   "mount -o remount,exec " + phi,
			undo: "mount -o remount,noexec " + phi},
		tamper{control: "phi", name: "another owner", setting: "owner and mode",
			do:   "chown root:root " + phi,
			undo: "chown phi-service:phi-access " + phi},
		tamper{control: "phi", name: "open for everybody", setting: "strangers",
			do:   "chmod 0755 " + phi,
			undo: "chmod 0750 " + phi},
		tamper{control: "phi", name: "the key is left on the disk", setting: "key not on the machine",
			do:   withKey("cp $key /var/lib/forgotten"),
			undo: "rm -f /var/lib/forgotten"},
		tamper{control: "phi", name: "a weaker key slot", setting: "header",
			do: withKey("umask 077; printf weak >/run/weak; cryptsetup luksAddKey --batch-mode --key-file $key --new-key-slot 7 --keyslot-cipher aes-xts-plain64 --keyslot-key-size 256 " +
				"--pbkdf pbkdf2 --pbkdf-force-iterations 1000 " + phiPart + " /run/weak"),
			undo: withKey("cryptsetup luksKillSlot --batch-mode --key-file $key " + phiPart + " 7; rm -f /run/weak")},
		tamper{control: "phi", name: "a file system table that nobody understands", setting: "crypttab and fstab",
			do:   keep("/etc/fstab") + "echo '/dev/no-such /no/such ext4 defaults 0 0' >>/etc/fstab",
			undo: put("/etc/fstab")},
		tamper{control: "phi", name: "another volume is pinned", setting: "pin",
			do:   keep(pinsFile) + `sed -i 's/"luks_uuid": *"........-/"luks_uuid": "00000000-/' ` + pinsFile,
			undo: put(pinsFile)},

		tamper{control: "fscrypt", name: "a key for everybody", setting: "key",
			do:   "chmod 0444 " + phi + "/.ward/fscrypt.key",
			undo: "chmod 0400 " + phi + "/.ward/fscrypt.key"},
		tamper{control: "fscrypt", name: "records that are locked", setting: records,
			do:   "fscrypt lock " + records + " --quiet",
			undo: "fscrypt unlock " + records + " --key=" + phi + "/.ward/fscrypt.key --quiet"},
		tamper{control: "fscrypt", name: "a folder that does not lock", setting: "a locked folder",
			do:   "mv " + trial + " " + trial + ".aside && mkdir -m 0700 " + trial,
			undo: "rm -rf " + trial + " && mv " + trial + ".aside " + trial},
	)
}

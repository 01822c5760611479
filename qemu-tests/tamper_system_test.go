package qemutests

// Tampers with what the machine records, filters, runs and sends away.
const (
	opensslConf = "/etc/ssl/openssl.cnf"
	auditConf   = "/etc/audit/auditd.conf"
	plugin      = "/etc/audit/plugins.d/syslog.conf"
)

// keep puts a file aside and put brings it back, with its time: some checks ask
// whether a file is newer than the daemon that read it.
func keep(file string) string { return "cp -a " + file + " /run/keep.file && " }
func put(file string) string  { return "cp -a /run/keep.file " + file + " && rm /run/keep.file" }

func init() {
	tampers = append(tampers,
		// The rules are locked, so they cannot be taken away: what is left is the
		// daemon, its file, and programs that no rule knows.
		tamper{control: "audit", name: "nobody writes the records", setting: "auditd.service",
			do:   "systemctl stop auditd.service",
			undo: "systemctl start auditd.service && sleep 3"},
		tamper{control: "audit", name: "a full disk loses records", setting: "full disk",
			do:   keep(auditConf) + "sed -i 's/^disk_full_action.*/disk_full_action = ignore/' " + auditConf,
			undo: put(auditConf)},
		tamper{control: "audit", name: "small logs", setting: "auditd.conf",
			do:   keep(auditConf) + "sed -i 's/^max_log_file = .*/max_log_file = 1/' " + auditConf + " && kill -HUP $(cat /run/auditd.pid) && sleep 2",
			undo: put(auditConf) + " && kill -HUP $(cat /run/auditd.pid) && sleep 2"},
		tamper{control: "audit", name: "a set-user program without a rule", setting: "privileged programs",
			do:   "cp /bin/true /usr/local/bin/evil && chmod 4755 /usr/local/bin/evil",
			undo: "rm /usr/local/bin/evil"},

		tamper{control: "tls", name: "the oldest version for servers", setting: "openssl server",
			do:   keep(opensslConf) + "sed -i 's/^MinProtocol = .*/MinProtocol = TLSv1/; s/SECLEVEL=2/SECLEVEL=0/' " + opensslConf,
			undo: put(opensslConf)},
		tamper{control: "tls", name: "short groups", setting: "DH groups",
			do:   keep(opensslConf) + "sed -i 's/SECLEVEL=2/SECLEVEL=0/' " + opensslConf,
			undo: put(opensslConf)},
		tamper{control: "tls", name: "the oldest version in GnuTLS", setting: "gnutls",
			do:   keep("/etc/gnutls/config") + "sed -i '/tls1.1/d; /profile/d' /etc/gnutls/config",
			undo: put("/etc/gnutls/config")},

		tamper{control: "firewall", name: "one port more", setting: "ruleset",
			do:   "nft add rule inet ward input tcp dport 8080 accept",
			undo: "nft -f /etc/nftables.conf"},
		tamper{control: "firewall", name: "everything is let in", setting: "ruleset",
			do:   "nft chain inet ward input '{ policy accept; }'",
			undo: "nft -f /etc/nftables.conf"},
		tamper{control: "firewall", name: "no rules at all", setting: "ruleset",
			do:   "nft flush ruleset",
			undo: "nft -f /etc/nftables.conf"},
		tamper{control: "firewall", name: "not after the next boot", setting: "nftables.service",
			do:   "systemctl disable nftables.service",
			undo: "systemctl enable nftables.service"},

		tamper{control: "kernel", name: "the kernel's log for everybody", setting: "sysctl",
			do:   "sysctl -w kernel.dmesg_restrict=0",
			undo: "sysctl -w kernel.dmesg_restrict=1"},
		tamper{control: "kernel", name: "a denied module loaded", setting: "modules",
			do:   "modprobe --ignore-install udf",
			undo: "modprobe -r udf"},
		tamper{control: "kernel", name: "denied modules allowed", setting: "modules",
			do:   "mv /etc/modprobe.d/ward-kernel.conf /run/keep.modprobe",
			undo: "cp -a /run/keep.modprobe /etc/modprobe.d/ward-kernel.conf && rm /run/keep.modprobe"},
		tamper{control: "kernel", name: "memory of the dead on disk", setting: "core dumps",
			do:   "sysctl -w kernel.core_pattern=core",
			undo: "sysctl -w 'kernel.core_pattern=|/bin/false'"},
		tamper{control: "kernel", name: "a set-user program", setting: "set-user programs",
			do:   "cp /bin/true /var/tmp/evil && chmod 4755 /var/tmp/evil",
			undo: "rm /var/tmp/evil"},
		tamper{control: "kernel", name: "an unneeded unit may start", setting: "unneeded units",
			do:   "systemctl unmask debug-shell.service",
			undo: "systemctl mask debug-shell.service"},
		tamper{control: "kernel", name: "somebody listens", setting: "listening",
			do:   "systemd-run --unit=ward-evil systemd-socket-activate --listen=8000 /bin/true && sleep 3",
			undo: "systemctl stop ward-evil.service"},
		tamper{control: "kernel", name: "no profile is loaded", setting: "mandatory access control",
			do:   "aa-teardown",
			undo: "systemctl restart apparmor.service && systemctl restart chrony.service"},

		tamper{control: "time", name: "another server", setting: "servers",
			do:   "chronyc add server 192.0.2.1",
			undo: "chronyc delete 192.0.2.1"},
		tamper{control: "time", name: "nobody keeps the clock", setting: "chrony.service",
			do:   "systemctl stop chrony.service",
			undo: "systemctl start chrony.service && chronyc waitsync 30 0 0 1 >/dev/null"},

		tamper{control: "updates", name: "not by themselves", setting: "apt",
			do:   `echo 'APT::Periodic::Unattended-Upgrade "0";' >/etc/apt/apt.conf.d/99evil`,
			undo: "rm /etc/apt/apt.conf.d/99evil"},
		tamper{control: "updates", name: "unsigned packages", setting: "apt",
			do:   `echo 'APT::Get::AllowUnauthenticated "true";' >/etc/apt/apt.conf.d/99evil`,
			undo: "rm /etc/apt/apt.conf.d/99evil"},
		tamper{control: "updates", name: "the timer is off", setting: "apt-daily-upgrade.timer",
			do:   "systemctl disable --now apt-daily-upgrade.timer",
			undo: "systemctl enable --now apt-daily-upgrade.timer"},
		tamper{control: "updates", name: "no update for ten days", setting: "pending",
			do:   "touch -d '10 days ago' /etc/machine-id",
			undo: "touch /etc/machine-id"},

		tamper{control: "integrity", name: "a changed program", setting: "files",
			do:   keep("/usr/bin/true") + "echo >>/usr/bin/true",
			undo: put("/usr/bin/true")},
		tamper{control: "integrity", name: "a new program", setting: "files",
			do:   "cp /usr/bin/true /usr/sbin/evil",
			undo: "rm /usr/sbin/evil"},
		tamper{control: "integrity", name: "no comparison at night", setting: "ward-integrity.timer",
			do:   "systemctl stop ward-integrity.timer",
			undo: "systemctl start ward-integrity.timer"},

		tamper{control: "remote-log", name: "a second receiver in clear text", setting: "connection",
			do:   "echo '*.* @192.0.2.1:514' >/etc/rsyslog.d/zz-evil.conf && systemctl restart rsyslog.service && logger evil && sleep 3",
			undo: "rm /etc/rsyslog.d/zz-evil.conf && systemctl restart rsyslog.service && sleep 3"},
		tamper{control: "remote-log", name: "nothing is sent", setting: "connection",
			do:   "mv /etc/rsyslog.d/00-ward-remote-log.conf /run/keep.rsyslog && systemctl restart rsyslog.service && sleep 3",
			undo: "cp -a /run/keep.rsyslog /etc/rsyslog.d/00-ward-remote-log.conf && rm /run/keep.rsyslog && systemctl restart rsyslog.service && sleep 3"},
		tamper{control: "remote-log", name: "another authority", setting: "server",
			do: keep("/etc/rsyslog.d/ward-remote-log/ca.pem") +
				"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /run/evil.key -days 2 -subj /CN=evil -out /etc/rsyslog.d/ward-remote-log/ca.pem 2>/dev/null",
			undo: put("/etc/rsyslog.d/ward-remote-log/ca.pem") + " && rm /run/evil.key"},
		tamper{control: "remote-log", name: "the queue is nearly full", setting: "queue",
			do:   "systemctl stop rsyslog.service && mv /var/spool/rsyslog/ward-imjournal.state /run/keep.state && fallocate -l 240M /var/log/journal/$(cat /etc/machine-id)/evil.journal",
			undo: "rm /var/log/journal/$(cat /etc/machine-id)/evil.journal && mv /run/keep.state /var/spool/rsyslog/ward-imjournal.state && systemctl start rsyslog.service && for i in $(seq 60); do wardctl log queue | grep -q 'or more' || exit 0; sleep 2; done; exit 1"},
		tamper{control: "remote-log", name: "audit records stay here", setting: "audit records",
			do:   keep(plugin) + "sed -i 's/^active.*/active = no/' " + plugin + " && systemctl restart auditd.service && sleep 3",
			undo: put(plugin) + " && systemctl restart auditd.service && sleep 3"},
		tamper{control: "remote-log", name: "the journal in memory", setting: "journal",
			do:   "printf '[Journal]\\nStorage=volatile\\n' >/etc/systemd/journald.conf.d/zz-evil.conf && systemctl restart systemd-journald.service && sleep 2",
			undo: "rm /etc/systemd/journald.conf.d/zz-evil.conf && systemctl restart systemd-journald.service && journalctl --flush && sleep 2"},
		tamper{control: "remote-log", name: "logs for everybody", setting: "readers",
			do:   "chmod o+r /var/log/auth.log",
			undo: "chmod o-r /var/log/auth.log"},

		tamper{control: "backup", name: "not at night", setting: "ward-backup.timer",
			do:   "systemctl disable --now ward-backup.timer",
			undo: "systemctl enable --now ward-backup.timer"},
		tamper{control: "backup", name: "another password", setting: "repository",
			do:   keep("/etc/ward/machine.json") + `sed -i '/"repository":/,/"password":/ s/\("password": *"\)/\1x/' /etc/ward/machine.json && ! cmp -s /run/keep.file /etc/ward/machine.json`,
			undo: put("/etc/ward/machine.json")},
		tamper{control: "backup", name: "a restore that failed", setting: "drill",
			do:   `if [ -e /var/lib/ward/drill.json ]; then mv /var/lib/ward/drill.json /run/keep.drill; fi; echo '{"version":1,"time":"2026-01-01T00:00:00Z","ok":false,"error":"2 of 9 files differ"}' >/var/lib/ward/drill.json`,
			undo: "rm /var/lib/ward/drill.json; if [ -e /run/keep.drill ]; then cp -a /run/keep.drill /var/lib/ward/drill.json && rm /run/keep.drill; fi"},
	)
}

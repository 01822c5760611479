package qemutests

// Tampers with who gets in, and how. The account files are put back whole, so
// that an undo leaves nothing of what useradd and usermod do beside.
const (
	keepAccounts = "mkdir -p /run/keep && cp -a /etc/passwd /etc/shadow /etc/group /etc/gshadow /run/keep/ && "
	putAccounts  = "for f in passwd shadow group gshadow; do cp -a /run/keep/$f /etc/$f.new && mv /etc/$f.new /etc/$f || exit 1; done; rm -r /run/keep"
	// A file of sshd that comes before ward's.
	sshdFirst = "/etc/ssh/sshd_config.d/00-aaa.conf"
)

func init() {
	tampers = append(tampers,
		tamper{control: "accounts", name: "root under another name", setting: "identities",
			do:   keepAccounts + "echo 'toor:x:0:0::/root:/bin/bash' >>/etc/passwd && echo 'toor:*:20000:7:90:14:::' >>/etc/shadow",
			undo: putAccounts},
		tamper{control: "accounts", name: "an account that is nobody's", setting: "nobody else",
			do:   keepAccounts + "useradd --no-create-home mallory",
			undo: putAccounts},
		tamper{control: "accounts", name: "root has a password", setting: "root",
			do:   keepAccounts + "usermod --password '$6$x$y' root",
			undo: putAccounts},
		tamper{control: "accounts", name: "another key for a person", setting: "people",
			do:   `f=$(ls /home/*/.ssh/authorized_keys | head -n 1) && cp -a "$f" /run/keep.keys && echo "$f" >/run/keep.path && ssh-keygen -q -t ed25519 -N '' -f /run/evil && cat /run/evil.pub >>"$f"`,
			undo: `f=$(cat /run/keep.path) && cp -a /run/keep.keys "$f" && rm /run/keep.keys /run/keep.path /run/evil /run/evil.pub`},
		tamper{control: "accounts", name: "sudo for everybody", setting: "sudo",
			do:   "echo 'ALL ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/zz-evil",
			undo: "rm /etc/sudoers.d/zz-evil"},
		tamper{control: "accounts", name: "sudo without a log", setting: "sudo options",
			do:   "echo 'Defaults !logfile' >/etc/sudoers.d/zz-evil",
			undo: "rm /etc/sudoers.d/zz-evil"},
		tamper{control: "accounts", name: "passwords for ever", setting: "ageing of new accounts",
			do:   "cp -a /etc/login.defs /run/keep.defs && sed -i 's/^PASS_MAX_DAYS.*/PASS_MAX_DAYS 99999/' /etc/login.defs",
			undo: "cp -a /run/keep.defs /etc/login.defs && rm /run/keep.defs"},
		tamper{control: "accounts", name: "the service account gets a shell", setting: "service account",
			do:   keepAccounts + "usermod --shell /bin/bash phi-service",
			undo: putAccounts},

		tamper{control: "breakglass", name: "opened by hand", setting: "seal",
			do:   "usermod --password '$6$x$y' --expiredate '' --shell /bin/bash breakglass",
			undo: "wardctl breakglass close"},
		tamper{control: "breakglass", name: "opened as it should be", setting: "seal",
			do:   "wardctl breakglass open --reason 'to see verify turn red' --for 30m",
			undo: "wardctl breakglass close"},
		tamper{control: "breakglass", name: "left open over a reboot", setting: "sealed after a reboot",
			do:   "systemctl disable ward-breakglass.service",
			undo: "systemctl enable ward-breakglass.service"},

		tamper{control: "passwords", name: "short ones", setting: "new passwords",
			do:   "cp -a /etc/security/pwquality.conf.d /run/keep.pw && sed -i 's/^minlen.*/minlen = 8/' /etc/security/pwquality.conf.d/*.conf",
			undo: "cp -a /run/keep.pw/. /etc/security/pwquality.conf.d/ && rm -r /run/keep.pw"},
		tamper{control: "passwords", name: "empty ones", setting: "new passwords",
			do:   "cp -a /etc/pam.d/common-auth /run/keep.auth && sed -i 's/pam_unix.so/pam_unix.so nullok/' /etc/pam.d/common-auth",
			undo: "cp -a /run/keep.auth /etc/pam.d/common-auth && rm /run/keep.auth"},

		tamper{control: "lockout", name: "a hundred tries", setting: "failed logins",
			do:   "cp -a /etc/security/faillock.conf /run/keep.fail && sed -i 's/^deny.*/deny = 100/' /etc/security/faillock.conf",
			undo: "cp -a /run/keep.fail /etc/security/faillock.conf && rm /run/keep.fail"},
		tamper{control: "lockout", name: "a door of its own", setting: "every door",
			do:   "cp -a /etc/pam.d/su /run/keep.su && sed -i 's/^@include common-auth/auth required pam_unix.so/' /etc/pam.d/su",
			undo: "cp -a /run/keep.su /etc/pam.d/su && rm /run/keep.su"},

		tamper{control: "sshd", name: "root may log in", setting: "who",
			do:   "echo 'PermitRootLogin yes' >" + sshdFirst,
			undo: "rm " + sshdFirst},
		tamper{control: "sshd", name: "passwords are enough", setting: "proof of identity",
			do:   "printf 'PasswordAuthentication yes\\nAuthenticationMethods any\\n' >" + sshdFirst,
			undo: "rm " + sshdFirst},
		tamper{control: "sshd", name: "passwords for one network", setting: "alike for everybody",
			do:   "printf 'Match Address 203.0.113.0/24\\nPasswordAuthentication yes\\nMatch all\\n' >/etc/ssh/sshd_config.d/zz-evil.conf",
			undo: "rm /etc/ssh/sshd_config.d/zz-evil.conf"},
		// The files are right again, and the server goes on as it was started.
		tamper{control: "sshd", name: "an old cipher in the running server", setting: "running server",
			do:   "echo 'Ciphers aes256-gcm@openssh.com,aes256-cbc' >" + sshdFirst + " && systemctl reload ssh.service && sleep 5 && rm " + sshdFirst,
			undo: "systemctl reload ssh.service && sleep 5"},
		tamper{control: "sshd", name: "forwarding", setting: "sessions",
			do:   "printf 'DisableForwarding no\\nAllowTcpForwarding yes\\n' >" + sshdFirst,
			undo: "rm " + sshdFirst},

		tamper{control: "logoff", name: "a shell that stays", setting: "login shells",
			do:   "echo 'readonly TMOUT=0; export TMOUT' >/etc/profile.d/00-aaa.sh",
			undo: "rm /etc/profile.d/00-aaa.sh"},
		// What the manual page of newer versions shows, and what does nothing.
		tamper{control: "logoff", name: "the form that does nothing", setting: "SSH sessions",
			do:   "echo 'ChannelTimeout session=900' >" + sshdFirst,
			undo: "rm " + sshdFirst},
		tamper{control: "logoff", name: "logind keeps idle sessions", setting: "sessions of logind",
			do:   "printf '[Login]\\nStopIdleSessionSec=infinity\\n' >/etc/systemd/logind.conf.d/zz-evil.conf && systemctl restart systemd-logind.service",
			undo: "rm /etc/systemd/logind.conf.d/zz-evil.conf && systemctl restart systemd-logind.service"},

		tamper{control: "banners", name: "a greeting", setting: "before an SSH login",
			do:   "cp -a /etc/issue.net /run/keep.issue && echo Welcome >/etc/issue.net",
			undo: "cp -a /run/keep.issue /etc/issue.net && rm /run/keep.issue"},
		tamper{control: "banners", name: "what runs here", setting: "before a console login",
			do:   `cp -a /etc/issue /run/keep.issue && echo '\S{PRETTY_NAME} \r' >/etc/issue`,
			undo: "cp -a /run/keep.issue /etc/issue && rm /run/keep.issue"},
		tamper{control: "banners", name: "no reminder", setting: "after login",
			do:   "cp -a /etc/motd /run/keep.motd && : >/etc/motd",
			undo: "cp -a /run/keep.motd /etc/motd && rm /run/keep.motd"},
	)
}

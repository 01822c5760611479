// Package machine says who one machine is: hostname, people and their keys, log
// server, backup repository, network. An operator writes it as YAML; `ward
// machine` compiles it to an Ignition 3.x config, in which it travels as the
// file Path beside the accounts that Ignition itself knows.
//
//	m, err := machine.Load("db1.yaml")  // strict, every fault at once
//	config, err := machine.Compile(m)   // Ignition, JSON
//
// A machine file holds secrets (backup password, private keys); so does what is
// compiled from it. No message of this package shows one.
package machine

// Path is where the machine's own copy lies, as JSON, mode 0600.
const Path = "/etc/ward/machine.json"

// Machine is one machine's file.
type Machine struct {
	// The machine's name, alone or with its domain (RFC 1123).
	Hostname string `yaml:"hostname" json:"hostname" jsonschema:"minLength=1,example=db1.example.org"`
	// The people who have an account; whoever is removed here loses access.
	People []Person `yaml:"people" json:"people" jsonschema:"minItems=1"`
	// The log server that gets every line by TLS.
	Logging *Logging `yaml:"logging,omitempty" json:"logging,omitempty"`
	// The restic repository of the nightly backup.
	Backup *Backup `yaml:"backup,omitempty" json:"backup,omitempty"`
	// Time servers, instead of the profile's; with a port where it is not 123.
	Time []string `yaml:"time_servers,omitempty" json:"time_servers,omitempty" jsonschema:"minItems=1,example=[time.example.org]"`
	// A static address; DHCP when absent.
	Network *Network `yaml:"network,omitempty" json:"network,omitempty"`
}

// Person is one human being with an account; nobody shares one (45 CFR 164.312(a)(2)(i)).
type Person struct {
	// The login name: a letter, then at most 31 of a-z, 0-9, _ and -.
	Name string `yaml:"name" json:"name" jsonschema:"minLength=1,example=jdoe"`
	// The person's name, for records.
	FullName string `yaml:"full_name" json:"full_name" jsonschema:"minLength=1,example=Jane Doe"`
	// Public SSH keys, lines of .pub files; RSA from 3072 bits, no DSA.
	SSHKeys []string `yaml:"ssh_keys" json:"ssh_keys" jsonschema:"minItems=1,example=[ssh-ed25519 AAAA... jane]"`
	// Further groups; phi-access is the one that may log in and read PHI.
	Groups []string `yaml:"groups,omitempty" json:"groups,omitempty" jsonschema:"example=[phi-access]"`
	// Whether the person may become root, each time with a password and a log line.
	Sudo bool `yaml:"sudo,omitempty" json:"sudo,omitempty"`
	// A hash of crypt(5) by yescrypt or sha512, for sudo and the console, never for
	// SSH; mkpasswd -m yescrypt makes one.
	PasswordHash string `yaml:"password_hash,omitempty" json:"password_hash,omitempty" strict:"secret"`
}

// Logging is the remote log server, 45 CFR 164.312(b).
type Logging struct {
	// Its host and port.
	Server string `yaml:"server" json:"server" jsonschema:"minLength=1,example=log.example.org:6514"`
	// The name that its certificate must have; the host of server when absent.
	Name string `yaml:"name,omitempty" json:"name"`
	// PEM of the authority that signed its certificate.
	CA string `yaml:"ca" json:"ca" jsonschema:"minLength=1"`
	// PEM of this machine's certificate.
	Cert string `yaml:"cert" json:"cert" jsonschema:"minLength=1"`
	// PEM of its private key.
	Key string `yaml:"key" json:"key" strict:"secret" jsonschema:"minLength=1"`
}

// Backup is the restic repository, 45 CFR 164.308(a)(7)(ii)(A).
type Backup struct {
	// Where it is: sftp:USER@HOST:/PATH or sftp://USER@HOST:PORT//PATH, rest:https://HOST/PATH or s3:https://HOST/BUCKET.
	Repository string `yaml:"repository" json:"repository" strict:"secret" jsonschema:"minLength=1,example=sftp:backup@backup.example.org:/srv/restic"`
	// The password that encrypts it; without it no backup can be read.
	Password string `yaml:"password" json:"password" strict:"secret" jsonschema:"minLength=16"`
	// sftp: the lines of known_hosts of the server.
	KnownHosts string `yaml:"known_hosts,omitempty" json:"known_hosts,omitempty"`
	// sftp: PEM of the private key that logs in there.
	SSHKey string `yaml:"ssh_key,omitempty" json:"ssh_key,omitempty" strict:"secret"`
	// rest: PEM of the authority that signed the server's certificate.
	CA string `yaml:"ca,omitempty" json:"ca,omitempty"`
	// Credentials of s3 and rest, as restic names them: AWS_ACCESS_KEY_ID and so on.
	Env map[string]string `yaml:"env,omitempty" json:"env,omitempty" strict:"secret"`
	// Patterns of files that are left out, restic's --exclude.
	Exclude []string `yaml:"exclude,omitempty" json:"exclude,omitempty"`
}

// Network is a static address.
type Network struct {
	// The machine's address with the length of its network.
	Address string `yaml:"address" json:"address" jsonschema:"minLength=1,example=10.1.2.3/24"`
	// The router.
	Gateway string `yaml:"gateway" json:"gateway" jsonschema:"minLength=1,example=10.1.2.1"`
	// Addresses of name servers.
	DNS []string `yaml:"dns" json:"dns" jsonschema:"minItems=1,example=[10.1.2.1]"`
}

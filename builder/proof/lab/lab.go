// Package lab is the network around a machine under test: a certificate
// authority made for the occasion, a log server, a backup server and a time
// server. They are real servers on the host's loopback interface, on free ports;
// a machine in QEMU reaches them at vm.HostAddr. Nothing of it outlives Close.
//
//	l, err := lab.Start(dir, vm.HostAddr)
//	defer l.Close()
//	config.Logging = l.Logging()
package lab

import (
	"errors"
	"fmt"
	"path/filepath"

	"ward/profiles/machine"
)

// Lab is a running set of servers.
type Lab struct {
	CA     *Authority
	Logs   *LogServer
	Backup *BackupServer
	Time   *TimeServer

	host           string // our address as machines see it
	backupPassword string
}

// LogName is the name in the log server's certificate.
const LogName = "log.ward.test"

// Start starts the servers. dir is for what they receive, host is the address at
// which machines reach this host's loopback interface.
func Start(dir, host string) (l *Lab, err error) {
	l = &Lab{host: host}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("lab: %w", err), l.Close())
		}
	}()
	if l.CA, err = NewAuthority("ward test authority"); err != nil {
		return l, err
	}
	logs, err := l.CA.Issue(Leaf{Names: []string{LogName}})
	if err != nil {
		return l, err
	}
	if l.Logs, err = StartLogServer(logs, l.CA, filepath.Join(dir, "received.log")); err != nil {
		return l, err
	}
	backup, err := l.CA.Issue(Leaf{Names: []string{"backup.ward.test"}, Addrs: []string{host, "127.0.0.1"}})
	if err != nil {
		return l, err
	}
	if l.Backup, err = StartBackupServer(backup, filepath.Join(dir, "backup")); err != nil {
		return l, err
	}
	if l.Time, err = StartTimeServer(); err != nil {
		return l, err
	}
	if l.backupPassword, err = Secret(); err != nil {
		return l, err
	}
	return l, nil
}

// Logging is the log server as a machine's config names it, with a certificate
// for that machine.
func (l *Lab) Logging(hostname string) (*machine.Logging, error) {
	leaf, err := l.CA.Issue(Leaf{Names: []string{hostname}, Client: true})
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	return &machine.Logging{
		Server: fmt.Sprintf("%s:%d", l.host, l.Logs.Port()), Name: LogName,
		CA: string(l.CA.PEM), Cert: string(leaf.Cert), Key: string(leaf.Key),
	}, nil
}

// Repository is the backup server as a machine's config names it.
func (l *Lab) Repository(hostname string) *machine.Backup {
	return &machine.Backup{
		Repository: fmt.Sprintf("rest:https://%s:%d/%s", l.host, l.Backup.Port(), hostname),
		Password:   l.backupPassword, CA: string(l.CA.PEM),
	}
}

// TimeServers are the time servers of a machine's config.
func (l *Lab) TimeServers() []string { return []string{fmt.Sprintf("%s:%d", l.host, l.Time.Port())} }

// Close stops every server.
func (l *Lab) Close() error {
	var errs []error
	if l.Logs != nil {
		errs = append(errs, l.Logs.Close())
	}
	if l.Backup != nil {
		errs = append(errs, l.Backup.Close())
	}
	if l.Time != nil {
		errs = append(errs, l.Time.Close())
	}
	return errors.Join(errs...)
}

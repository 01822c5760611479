package machine

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	ignition "github.com/coreos/ignition/v2/config/v3_5"
	"github.com/coreos/ignition/v2/config/v3_5/types"
)

// Compile writes the machine as an Ignition config,
// https://coreos.github.io/ignition/configuration-v3_5/, which is checked with
// Ignition's own parser. It holds the machine's secrets: the file with it must
// be readable by its owner only.
func Compile(m *Machine) ([]byte, error) {
	own, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	config := types.Config{Ignition: types.Ignition{Version: types.MaxVersion.String()}}
	for _, p := range m.People {
		config.Passwd.Users = append(config.Passwd.Users, user(p))
	}
	config.Storage.Files = []types.File{
		file("/etc/hostname", 0o644, []byte(m.Hostname+"\n")),
		file(Path, 0o600, own),
	}
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	data = append(data, '\n')
	_, report, err := ignition.Parse(data)
	if err != nil || report.IsFatal() {
		return nil, fmt.Errorf("machine: ignition refuses the compiled config: %v %s", err, report.String())
	}
	return data, nil
}

// user is one person as Ignition knows accounts.
func user(p Person) types.PasswdUser {
	u := types.PasswdUser{Name: p.Name, Gecos: &p.FullName, Shell: ref("/bin/bash")}
	for _, k := range p.SSHKeys {
		u.SSHAuthorizedKeys = append(u.SSHAuthorizedKeys, types.SSHAuthorizedKey(k))
	}
	for _, g := range p.Groups {
		u.Groups = append(u.Groups, types.Group(g))
	}
	if p.PasswordHash != "" {
		u.PasswordHash = &p.PasswordHash
	}
	return u
}

// file is a file that replaces what the image has at its place.
func file(path string, mode int, content []byte) types.File {
	source := "data:;base64," + base64.StdEncoding.EncodeToString(content)
	return types.File{
		Node:          types.Node{Path: path, Overwrite: ref(true), User: types.NodeUser{ID: ref(0)}, Group: types.NodeGroup{ID: ref(0)}},
		FileEmbedded1: types.FileEmbedded1{Mode: &mode, Contents: types.Resource{Source: &source}},
	}
}

func ref[T any](v T) *T { return &v }

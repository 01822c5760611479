package main

import (
	"github.com/spf13/cobra"

	"ward/firstboot/breakglass"
	"ward/firstboot/mfa"
	"ward/profiles/control"
)

// accessCommands are the commands about who gets in.
func accessCommands(open opener) []*cobra.Command {
	target := func() (*control.Target, func() error, error) {
		m, err := open()
		if err != nil {
			return nil, nil, err
		}
		t, err := m.Target()
		return t, m.Close, err
	}
	return []*cobra.Command{breakglass.Command(target), mfa.Command(target)}
}

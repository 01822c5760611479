package main

import (
	"github.com/spf13/cobra"

	"ward/firstboot/backup"
	"ward/firstboot/drill"
)

// backupCommands are the commands about copies of PHI.
func backupCommands(open opener) []*cobra.Command {
	target := backup.Opener(targetOf(open))
	return []*cobra.Command{backup.Command(target), backup.RestoreCommand(target), drill.Command(target)}
}

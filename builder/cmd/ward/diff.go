package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"ward/builder"
)

// diff is ward diff.
func (p *program) diff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "say in what two built images differ",
		Long: `diff compares two folders that "ward build" wrote and prints a line for each
difference: a field of the inputs, a control's parameter, a package, a path of the
root file system, a file of the folder. It ends with exit code 1 if there is one.`,
		Example: `  ward diff out/debian-12 old/debian-12
  ward diff old new | grep ^package      # what an update brought`,
		Args: args(2, 2),
		RunE: func(_ *cobra.Command, list []string) error {
			for _, dir := range list {
				if _, err := diskOf(dir); err != nil {
					return err
				}
			}
			differ, err := builder.Compare(list[0], list[1])
			if err != nil {
				return err
			}
			for _, d := range differ {
				switch {
				case d.A == "":
					fmt.Fprintf(p.out, "%s %s: only in %s: %s\n", d.Kind, d.Name, list[1], d.B)
				case d.B == "":
					fmt.Fprintf(p.out, "%s %s: only in %s: %s\n", d.Kind, d.Name, list[0], d.A)
				case d.Kind == builder.DiffPath:
					a, b := unlike(d.A, d.B)
					fmt.Fprintf(p.out, "%s %s: %s -> %s\n", d.Kind, d.Name, a, b)
				default:
					fmt.Fprintf(p.out, "%s %s: %s -> %s\n", d.Kind, d.Name, d.A, d.B)
				}
			}
			if len(differ) > 0 {
				return fmt.Errorf("%s and %s differ in %d things", list[0], list[1], len(differ))
			}
			fmt.Fprintf(p.out, "%s and %s are the same image\n", list[0], list[1])
			return nil
		},
	}
}

// unlike leaves out of two lines of keywords what both have.
func unlike(a, b string) (string, string) {
	return without(a, b), without(b, a)
}

func without(line, other string) string {
	var kept []string
	for word := range strings.FieldsSeq(line) {
		if !strings.Contains(" "+other+" ", " "+word+" ") {
			kept = append(kept, word)
		}
	}
	if len(kept) == 0 {
		return "-"
	}
	return strings.Join(kept, " ")
}

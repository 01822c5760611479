package pxe

import (
	"slices"
	"strings"
)

// Script is the iPXE script of a set. url is where the installing machine finds the
// manifest; empty: its initramfs knows. Kernel and initramfs are relative to where
// the script itself came from. iPXE hands the initramfs to the kernel's EFI stub by
// the name that initrd= repeats; a BIOS ignores the word. What the installation says
// of its progress is of level 6, and loglevel= shows what is below its number.
func Script(url string, words []string) string {
	line := []string{"initrd=" + InitrdFile, "console=tty0", "console=ttyS0,115200", "panic=30", "loglevel=7"}
	if url != "" {
		line = append(line, "ward.url="+url)
	}
	return "#!ipxe\n" +
		"kernel " + KernelFile + " " + strings.Join(append(line, words...), " ") + "\n" +
		"initrd " + InitrdFile + "\n" +
		"boot\n"
}

// wordsOf are the words of a script's kernel line that Script does not add itself.
func wordsOf(script string) []string {
	own := strings.Fields(strings.Split(Script("", nil), "\n")[1])
	for line := range strings.Lines(script) {
		f := strings.Fields(line)
		if len(f) < len(own) || !slices.Equal(f[:len(own)], own) {
			continue
		}
		return slices.DeleteFunc(f[len(own):], func(w string) bool { return strings.HasPrefix(w, "ward.url=") })
	}
	return nil
}

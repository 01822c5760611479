package boot

import (
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// heapLimit is how large the heap may grow before the garbage collector starts.
// Init lives for a second and needs a few MiB; collecting them costs more than
// they do. An Argon2 slot of a gigabyte still is collected.
const heapLimit = 64 << 20

// lean spares work that only pays for a process that lives: garbage collection,
// and huge pages, of which each is zeroed as a whole for the few bytes that are
// used of it. PR_SET_THP_DISABLE, prctl(2), outlives exec: fat takes it back.
func lean() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(heapLimit)
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) // EINVAL: a kernel without huge pages
}

// fat gives the real init huge pages again.
func fat() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0) }

package modload

import (
	"slices"
	"sync"
)

// slots lets at most n callers work at a time; of those that wait, the one with
// the lowest rank is next. Most of the time of loading a signed module is
// arithmetic (the kernel checks an RSA signature), so more loads than CPUs only
// delay those that matter first. Rank 0, the drivers that lead to the disks, is
// left one slot that nobody else takes.
type slots struct {
	mu      sync.Mutex
	free    int
	keep    int      // slots that only rank 0 may take
	waiting []waiter // sorted by rank; equal ranks in the order of arrival
}

type waiter struct {
	rank int
	next chan struct{}
}

func newSlots(n int) *slots {
	s := &slots{free: n}
	if n > 1 {
		s.keep = 1
	}
	return s
}

func (s *slots) acquire(rank int) {
	s.mu.Lock()
	w := waiter{rank, make(chan struct{})}
	i := len(s.waiting)
	for i > 0 && s.waiting[i-1].rank > rank {
		i--
	}
	s.waiting = slices.Insert(s.waiting, i, w)
	s.grant()
	s.mu.Unlock()
	<-w.next
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	s.grant()
}

// grant lets in whom it can. The caller holds mu.
func (s *slots) grant() {
	for len(s.waiting) > 0 {
		w := s.waiting[0]
		if s.free == 0 || w.rank > 0 && s.free <= s.keep {
			return
		}
		s.free--
		s.waiting = s.waiting[1:]
		close(w.next)
	}
}

// open ends the privilege of rank 0.
func (s *slots) open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep = 0
	s.grant()
}

package modload

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// recorder is a loader that notes what is loaded, in its order.
func recorder(t *testing.T, dep, alias string, fail map[string]error) (*Loader, func() []string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"modules.dep": dep, "modules.alias": alias} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := New(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var loaded []string
	l.load = func(path string) error {
		name := strings.TrimSuffix(filepath.Base(path), ".ko")
		mu.Lock()
		defer mu.Unlock()
		if err := fail[name]; err != nil {
			return err
		}
		loaded = append(loaded, name)
		return nil
	}
	return l, func() []string { mu.Lock(); defer mu.Unlock(); return loaded }
}

const dep = "a.ko: b.ko c.ko\nb.ko: d.ko\nc.ko: d.ko\nd.ko:\nx.ko: y.ko\ny.ko: x.ko\n"

func TestLoad(t *testing.T) {
	l, loaded := recorder(t, dep, "", nil)
	var wg sync.WaitGroup
	for range 20 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if err := l.Load("a"); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	got := loaded()
	if len(got) != 4 || got[0] != "d" || got[3] != "a" {
		t.Errorf("loaded %v, want each of four once, d first and a last", got)
	}
	if err := l.Load("built-in"); err != nil {
		t.Errorf("Load of a module that is not in the folder = %v, want nil: it is built in", err)
	}
}

func TestLoadReports(t *testing.T) {
	l, loaded := recorder(t, dep, "", map[string]error{"d": unix.EKEYREJECTED})
	for range 2 { // the second time as well
		if err := l.Load("a"); !errors.Is(err, unix.EKEYREJECTED) || !strings.Contains(err.Error(), "module d: ") {
			t.Errorf("Load = %v, want %v of module d", err, unix.EKEYREJECTED)
		}
	}
	if got := loaded(); len(got) != 0 {
		t.Errorf("loaded %v although what they need failed", got)
	}
}

func TestLoadAllAlternatives(t *testing.T) {
	for _, c := range []struct {
		fail map[string]error
		want []string
		err  bool
	}{
		{nil, []string{"aesni"}, false},
		{map[string]error{"aesni": unix.ENODEV}, []string{"xts"}, false},
		{map[string]error{"aesni": unix.ENOMEM, "xts": unix.ENOMEM}, nil, true},
		{map[string]error{"aesni": unix.ENODEV, "xts": unix.ENODEV}, nil, false},
	} {
		l, loaded := recorder(t, "aesni.ko:\nxts.ko:\n", "", c.fail)
		err := l.LoadAll([]string{"aesni|xts"})
		if got := loaded(); !reflect.DeepEqual(got, c.want) || (err != nil) != c.err {
			t.Errorf("with %v: loaded %v, error %v, want %v, error %v", c.fail, got, err, c.want, c.err)
		}
	}
}

func TestMatch(t *testing.T) {
	l, loaded := recorder(t, dep, "alias virtio:d00000002v* d\nalias pci:* c\n", nil)
	if err := l.Match("virtio:d00000002v00001AF4"); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(loaded()); got != "[d]" {
		t.Errorf("loaded %s, want [d]", got)
	}
}

func TestLoadEndsOnACircle(t *testing.T) {
	l, _ := recorder(t, dep, "", nil)
	if err := l.Load("x"); err == nil || !strings.Contains(err.Error(), "needs itself") {
		t.Errorf("Load = %v, want an error that says so", err)
	}
}

func TestSlots(t *testing.T) {
	s := newSlots(2)
	s.acquire(0)
	s.acquire(0)
	order := make(chan int, 3)
	var wg sync.WaitGroup
	for _, rank := range []int{2, 1, 0} {
		wg.Add(1)
		queued := func() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.waiting) }
		before := queued()
		go func() {
			defer wg.Done()
			s.acquire(rank)
			order <- rank
		}()
		for queued() == before {
		}
	}
	s.release()
	if got := <-order; got != 0 {
		t.Errorf("rank %d is first, want 0", got)
	}
	s.release() // one of two is free now, and it is kept for rank 0
	select {
	case got := <-order:
		t.Errorf("rank %d took the slot that is kept for rank 0", got)
	default:
	}
	s.open()
	if got := <-order; got != 1 {
		t.Errorf("rank %d is second, want 1", got)
	}
	s.release()
	if got := <-order; got != 2 {
		t.Errorf("rank %d is last, want 2", got)
	}
	wg.Wait()
}

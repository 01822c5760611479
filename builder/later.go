package builder

// later is a result that is worked on while others go on.
type later[T any] struct {
	done chan struct{}
	v    T
	err  error
}

// begin starts f.
func begin[T any](f func() (T, error)) *later[T] {
	l := &later[T]{done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.v, l.err = f()
	}()
	return l
}

// wait waits for the result; any number of goroutines may, and may again.
func (l *later[T]) wait() (T, error) {
	<-l.done
	return l.v, l.err
}

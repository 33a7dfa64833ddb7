// Command bench measures Verger through its API, in one run beside the bare
// OCI runtimes on the same bundle, and prints a table of medians and ratios.
//
// It runs in network and mount namespaces of its own. Every figure that
// README or docs claim about speed comes from here.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/verger-garden/verger/internal/testhost"
)

var (
	sequential = flag.Int("n", 50, "sequential cycles of each kind")
	parallel   = flag.Int("c", 40, "cycles at concurrency 8")
	restarts   = flag.Int("restart", 100, "containers that a restarted server finds")
	live       = flag.Int("live", 100, "containers alive while the flatness of a cycle is measured")
	runtimes   = flag.String("runtime", "runc,crun", "runtimes to measure")
)

func main() {
	flag.Parse()
	testhost.Isolate()
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure() error {
	fmt.Printf("%s, %d cores, Linux %s, %s\n\n", time.Now().Format(time.DateOnly), runtime.NumCPU(), kernel(), cpuModel())
	var misses int
	for name, path := range testhost.Runtimes() {
		if !slices.Contains(splitComma(*runtimes), name) {
			continue
		}
		missed, err := measureRuntime(name, path)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		misses += missed
	}
	if misses > 0 {
		return fmt.Errorf("%d budgets missed", misses)
	}
	return nil
}

func measureRuntime(name, path string) (misses int, err error) {
	dir, err := os.MkdirTemp("", "gdn-bench")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return 0, err
	}
	s, err := startServer(filepath.Join(testhost.Root(), "bin", "gdn"), dir, path)
	if err != nil {
		return 0, err
	}
	defer func() {
		if stop := s.clean(); err == nil {
			err = stop
		}
	}()
	b, err := newBare(s, path)
	if err != nil {
		return 0, err
	}
	defer b.clean()

	t := table{}
	for _, pause := range []time.Duration{0, 70 * time.Millisecond} {
		ours, bare, err := paired(*sequential, pause, s, b)
		if err != nil {
			return 0, err
		}
		when := "back to back"
		if pause > 0 {
			when = fmt.Sprintf("after %d ms of idling", pause.Milliseconds())
		}
		t.compare(name, when, ours, bare)
	}
	ours, err := concurrent(*parallel, 8, s.cycle)
	if err != nil {
		return 0, err
	}
	bare, err := concurrent(*parallel, 8, b.cycle)
	if err != nil {
		return 0, err
	}
	t.compare(name, "8 at once", ours, bare)
	t.print(name)

	if err := s.floor(*sequential, &t); err != nil {
		return 0, err
	}
	if err := s.memory(20, &t); err != nil {
		return 0, err
	}
	if err := s.flatness(*live, *sequential, &t); err != nil {
		return 0, err
	}
	if err := s.restart(*restarts, &t); err != nil {
		return 0, err
	}
	t.printFigures()
	return t.misses, nil
}

// paired takes turns, so that both see the same machine.
func paired(n int, pause time.Duration, s *server, b *bare) (ours, theirs sample, err error) {
	for i := range n + 3 {
		a, err := s.cycle(pause)
		if err != nil {
			return ours, theirs, err
		}
		c, err := b.cycle(pause)
		if err != nil {
			return ours, theirs, err
		}
		if i >= 3 { // the first warm the caches
			ours.add(a)
			theirs.add(c)
		}
	}
	return ours, theirs, nil
}

func concurrent(n, workers int, cycle func(time.Duration) (steps, error)) (sample, error) {
	var all sample
	results := make(chan steps)
	failures := make(chan error, workers)
	work := make(chan struct{}, n)
	for range n {
		work <- struct{}{}
	}
	close(work)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r := range results {
			all.add(r)
		}
	}()
	for range workers {
		go func() {
			for range work {
				r, err := cycle(0)
				if err != nil {
					failures <- err
					return
				}
				results <- r
			}
			failures <- nil
		}()
	}
	var first error
	for range workers {
		if err := <-failures; first == nil {
			first = err
		}
	}
	close(results)
	<-done
	return all, first
}

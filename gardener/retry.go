package gardener

import (
	"sync"
	"time"

	"code.cloudfoundry.org/lager/v3"
)

// retries owns the goroutines that go on destroying after Cleanup returned.
type retries struct {
	mu      sync.Mutex
	stop    chan struct{} // closed by cancel; nil while there is none
	running sync.WaitGroup
}

// start runs fn in a goroutine of its own; its channel closes on cancel.
func (r *retries) start(fn func(stop <-chan struct{})) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop == nil {
		r.stop = make(chan struct{})
	}
	stop := r.stop
	r.running.Go(func() { fn(stop) })
}

// cancel ends all goroutines and waits for them.
func (r *retries) cancel() {
	r.mu.Lock()
	if r.stop != nil {
		close(r.stop)
		r.stop = nil
	}
	r.mu.Unlock()
	r.running.Wait()
}

// WaitForCleanup returns once Cleanup has destroyed, or given up on, all that
// it left to the background.
func (g *Gardener) WaitForCleanup() { g.retries.running.Wait() }

// retry goes on destroying in the background.
func (g *Gardener) retry(log lager.Logger, doomed []*holder) {
	if len(doomed) == 0 {
		return
	}
	g.retries.start(func(stop <-chan struct{}) {
		for range CleanupRetryLimit - 1 { // the first try is behind us
			if !g.pause(stop, CleanupRetrySleep) {
				return
			}
			if doomed = g.attempt(log, doomed); len(doomed) == 0 {
				return
			}
		}
		for _, ho := range doomed {
			log.Info("gave-up", lager.Data{"handle": ho.handle, "tries": CleanupRetryLimit})
		}
	})
}

// pause lets d pass, and answers false if it was stopped meanwhile.
func (g *Gardener) pause(stop <-chan struct{}, d time.Duration) bool {
	if g.Sleep == nil {
		select {
		case <-time.After(d):
		case <-stop:
		}
	} else {
		g.Sleep(d)
	}
	select {
	case <-stop:
		return false
	default:
		return true
	}
}

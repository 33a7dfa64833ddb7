package gardener

import (
	"fmt"
)

// Start begins to watch the runtime, runs the start-up tasks and cleans up
// after the server before this one.
func (g *Gardener) Start() error {
	log := g.Logger.Session("start")
	if err := g.Containerizer.WatchRuntimeEvents(log); err != nil {
		return fmt.Errorf("watch runtime events: %w", err)
	}
	if err := g.BulkStarter.StartAll(); err != nil {
		return err // it names the starter's trouble
	}
	return g.Cleanup(log)
}

// Stop ends what Start began. Containers go on. It waits for a retry of
// Cleanup that is under way, and cancels those that would follow.
func (g *Gardener) Stop() error {
	g.retries.cancel()
	return g.Containerizer.Shutdown()
}

// A Starter does one start-up task.
type Starter interface {
	Start() error
}

// A BulkStarter does all of them.
type BulkStarter interface {
	StartAll() error
}

type bulkStarter struct {
	starters []Starter
}

// NewBulkStarter returns a BulkStarter that runs the starters in order, up
// to the first that fails.
func NewBulkStarter(starters []Starter) *bulkStarter {
	return &bulkStarter{starters: starters}
}

func (b *bulkStarter) StartAll() error {
	for _, s := range b.starters {
		if err := s.Start(); err != nil {
			return err
		}
	}
	return nil
}

package rundmc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/verger-garden/verger/internal/atomicfile"
	"github.com/verger-garden/verger/internal/handle"
	"github.com/verger-garden/verger/rundmc/keeper"
)

// restoreAtOnce bounds how many containers are taken up side by side.
const restoreAtOnce = 32

// restore takes up every container in the depot.
func (c *Containerizer) restore() error {
	entries, err := os.ReadDir(c.config.Depot)
	if err != nil {
		return fmt.Errorf("read depot: %w", err)
	}
	slots := make(chan struct{}, restoreAtOnce)
	var wg sync.WaitGroup
	for _, e := range entries {
		if !e.IsDir() || handle.Validate(e.Name()) != nil {
			continue // not ours
		}
		found := newContainer(e.Name(), filepath.Join(c.config.Depot, e.Name()), c)
		c.mu.Lock()
		c.containers[found.handle] = found
		c.mu.Unlock()
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			switch err := found.restore(); {
			case errors.Is(err, keeper.ErrGone):
				found.log.Info("init-ended-meanwhile")
			case err != nil:
				found.log.Error("restore", err)
			}
		})
	}
	wg.Wait()
	return nil
}

// restore reads the records, finds init again and adopts its processes. After
// an error the container counts as dead.
func (c *container) restore() (err error) {
	defer func() {
		if err != nil {
			c.mu.Lock()
			c.dead = true
			c.mu.Unlock()
		}
	}()
	if err := c.load(); err != nil {
		return err
	}
	if c.record.Pid == 0 {
		return errors.New("its creation was cut short")
	}
	// The socket answers only while init lives, and the start time tells that
	// the pid is still init's.
	if err := c.hold(c.record.Pid); err != nil {
		return errors.Join(keeper.ErrGone, err)
	}
	if started, err := startTime(c.record.Pid); err != nil || started != c.record.Started {
		_ = c.proc.Close()  // somebody else's
		_ = c.pidfd.Close() // somebody else's
		c.proc, c.pidfd = nil, nil
		return keeper.ErrGone
	}
	conn, err := keeper.Dial(c.path(socketFile))
	if err != nil {
		return err
	}
	return c.meet(conn)
}

func (c *container) load() error {
	if err := atomicfile.ReadJSON(c.path(recordFile), &c.record); err != nil {
		return err
	}
	var full specs.Spec
	if err := atomicfile.ReadJSON(c.path(bundleFile), &full); err != nil {
		return err
	}
	c.bundle = slim(full)
	exits, err := c.exits.load()
	if err != nil { // no reason to give up what runs
		c.log.Error("exits-set-aside", err)
	}
	for _, e := range exits {
		if c.processes[e.ID] == nil {
			c.ended = append(c.ended, e.ID)
		}
		c.processes[e.ID] = c.endedProcess(e)
	}
	return nil
}

package gardener

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
)

// Destroy destroys a container. Unknown handles are a ContainerNotFoundError.
// It waits for an operation on the same container that is under way (a
// create, another destroy) and then destroys what that has left; if nothing,
// that too is a ContainerNotFoundError. After a failure the container stays
// listed and Destroy can be repeated.
func (g *Gardener) Destroy(handle string) (err error) {
	started := time.Now()
	log := g.Logger.Session("destroy", lager.Data{"handle": handle})
	if err := g.learn(); err != nil {
		return err
	}
	ho, ok := g.handles.get(handle)
	if !ok || !g.handles.seize(ho) {
		return garden.ContainerNotFoundError{Handle: handle}
	}
	g.mark(log, handle)
	took := func() lager.Data { return lager.Data{"took": time.Since(started).String()} }
	if err := g.destroy(log, ho); err != nil {
		log.Error("destroy-failed", err, took())
		return err
	}
	log.Info("destroyed", took())
	return nil
}

// mark records that a complete container is to be destroyed. Failing that,
// on a full disk say, the container is destroyed all the same.
func (g *Gardener) mark(log lager.Logger, handle string) {
	if _, complete := g.PropertyManager.Get(handle, StateKey); !complete {
		return
	}
	if err := g.save(handle, garden.Properties{DestroyingKey: "true"}); err != nil {
		log.Error("record-destroy-failed", err)
	}
}

// destroy undoes whatever create has done, or begun, for a container that
// the caller has claimed or seized, and ends that operation. Every step is
// tried. The container is forgotten, and its handle free again, only if
// nothing of it is left.
func (g *Gardener) destroy(log lager.Logger, ho *holder) error {
	done := false // a panic must not leave the handle claimed for ever
	defer func() {
		if done {
			g.handles.drop(ho)
		} else {
			g.handles.release(ho)
		}
	}()
	if err := g.dismantle(log, ho.handle); err != nil {
		return err
	}
	if err := wrap("remove bundle", missingIsDone(g.Containerizer.RemoveBundle(log, ho.handle))); err != nil {
		return err
	}
	// Last, because from here on no record tells of the container.
	if err := ho.forget(func() error { return g.PropertyManager.DestroyKeySpace(ho.handle) }); err != nil {
		return fmt.Errorf("forget properties: %w", err)
	}
	done = true
	return nil
}

// dismantle ends the container first, since its network and volume are in
// use until then, and frees those side by side.
func (g *Gardener) dismantle(log lager.Logger, handle string) error {
	containerErr := g.Containerizer.Destroy(log, handle)
	var networkErr, volumeErr error
	var side sync.WaitGroup
	side.Go(func() { networkErr = g.Networker.Destroy(log, handle) })
	side.Go(func() { volumeErr = g.Volumizer.Destroy(log, handle) })
	side.Wait()
	return errors.Join(
		wrap("destroy container", missingIsDone(containerErr)),
		wrap("destroy network", missingIsDone(networkErr)),
		wrap("destroy volume", missingIsDone(volumeErr)),
	)
}

func missingIsDone(err error) error {
	if _, missing := errors.AsType[garden.ContainerNotFoundError](err); missing {
		return nil
	}
	return err
}

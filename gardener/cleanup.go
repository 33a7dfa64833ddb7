package gardener

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"code.cloudfoundry.org/lager/v3"
)

// Cleanup makes order after the server before this one, however it ended. It
// looks at every handle of which any component holds anything. Containers
// that were created completely are restored; all else, and what cannot be
// restored, is destroyed, whatever its records look like.
//
// Each container is destroyed side by side with the others and tried once;
// what fails stays listed under garden.state "all" and is tried again in the
// background. So start-up waits for no broken container, and none of them,
// nor a component that cannot list its handles, makes Cleanup fail. Only if
// the containerizer cannot list its containers it does, having touched none.
func (g *Gardener) Cleanup(log lager.Logger) error {
	started := time.Now()
	log = log.Session("cleanup")
	if err := g.PeaCleaner.CleanAll(log); err != nil {
		log.Error("clean-peas-failed", err) // debris is no reason to serve nobody
	}
	containers, err := g.Containerizer.Handles()
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	complete, doomed := g.sort(containers, g.debris(log))
	g.learned.Store(true)

	lost := g.Restorer.Restore(log, slices.Sorted(maps.Keys(complete)))
	for _, handle := range lost {
		if ho, ok := complete[handle]; ok {
			doomed = append(doomed, ho)
		}
	}
	failed := g.attempt(log, doomed)
	log.Info("cleaned-up", lager.Data{
		"restored":  len(complete) - len(lost),
		"destroyed": len(doomed) - len(failed),
		"left":      len(failed),
		"took":      time.Since(started).String(),
	})
	g.retry(log, failed)
	return nil
}

// sort adopts all handles and tells containers that are to be restored from
// what is to be destroyed. What somebody works on is neither.
func (g *Gardener) sort(containers, debris []string) (complete map[string]*holder, doomed []*holder) {
	complete = map[string]*holder{}
	known := map[string]bool{}
	for _, handle := range containers {
		known[handle] = true
		ho, idle := g.handles.adopt(handle)
		switch {
		case !idle:
		case g.complete(handle):
			complete[handle] = ho
		default:
			doomed = append(doomed, ho)
		}
	}
	for _, handle := range debris {
		if known[handle] {
			continue
		}
		known[handle] = true
		if ho, idle := g.handles.adopt(handle); idle {
			doomed = append(doomed, ho)
		}
	}
	return complete, doomed
}

// complete tells whether create succeeded and no destroy has begun.
func (g *Gardener) complete(handle string) bool {
	state, _ := g.PropertyManager.Get(handle, StateKey)
	_, destroying := g.PropertyManager.Get(handle, DestroyingKey)
	return state == StateCreated && !destroying
}

// debris lists the handles that the components beside the containerizer
// know, as far as they can tell.
func (g *Gardener) debris(log lager.Logger) []string {
	spared, err := g.peas()
	if err != nil {
		// A volume might be that of a pea which runs.
		log.Error("list-peas-failed", err)
	}
	var found []string
	for _, source := range []struct {
		name      string
		component any
		may       bool
	}{
		{"properties", g.PropertyManager, true},
		{"networker", g.Networker, true},
		{"volumizer", g.Volumizer, err == nil},
	} {
		lister, ok := source.component.(HandleLister)
		if !ok || !source.may {
			continue
		}
		handles, err := lister.Handles()
		if err != nil {
			log.Error("list-handles-failed", err, lager.Data{"of": source.name})
			continue
		}
		found = append(found, handles...)
	}
	return slices.DeleteFunc(found, func(handle string) bool { return slices.Contains(spared, handle) })
}

func (g *Gardener) peas() ([]string, error) {
	if lister, ok := g.Containerizer.(PeaLister); ok {
		return lister.PeaHandles()
	}
	return nil, nil
}

// attempt destroys the containers side by side and answers those that are
// not gone.
func (g *Gardener) attempt(log lager.Logger, doomed []*holder) (failed []*holder) {
	var mu sync.Mutex
	sideBySide(doomed, func(ho *holder) {
		if !g.handles.seize(ho) {
			return // a client was faster
		}
		log := log.Session("destroy", lager.Data{"handle": ho.handle})
		if err := g.destroy(log, ho); err != nil {
			log.Error("destroy-failed", err)
			mu.Lock()
			defer mu.Unlock()
			failed = append(failed, ho)
		}
	})
	return failed
}

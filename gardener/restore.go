package gardener

import (
	"sync"

	"code.cloudfoundry.org/lager/v3"
)

// NoopRestorer restores nothing: with it, start-up destroys all containers.
type NoopRestorer struct{}

// Restore answers all handles.
func (n *NoopRestorer) Restore(_ lager.Logger, handles []string) []string {
	return handles
}

type restorer struct {
	networker Networker
}

// NewRestorer returns a Restorer that takes up the networks of containers,
// side by side. A container whose network cannot be restored is of no use:
// the reason is logged and the handle answered.
func NewRestorer(networker Networker) Restorer {
	return &restorer{networker: networker}
}

func (r *restorer) Restore(log lager.Logger, handles []string) []string {
	log = log.Session("restore")
	var mu sync.Mutex
	lost := map[string]bool{}
	sideBySide(handles, func(handle string) {
		if err := r.networker.Restore(log, handle); err != nil {
			log.Error("restore-failed", err, lager.Data{"handle": handle})
			mu.Lock()
			defer mu.Unlock()
			lost[handle] = true
		}
	})
	failed := []string{}
	for _, handle := range handles {
		if lost[handle] {
			failed = append(failed, handle)
		}
	}
	return failed
}

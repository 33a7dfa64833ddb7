package gardener

import (
	"errors"
	"sync"

	"code.cloudfoundry.org/garden"
)

// bulkWidth bounds how many containers one bulk call, or the sweep at start,
// works on at a time.
const bulkWidth = 16

// BulkInfo answers an entry per handle; one that fails has its error in its
// entry, an unknown one a ContainerNotFoundError.
func (g *Gardener) BulkInfo(handles []string) (map[string]garden.ContainerInfoEntry, error) {
	return bulk(handles, func(handle string) garden.ContainerInfoEntry {
		info, err := (&container{gardener: g, handle: handle}).Info()
		return garden.ContainerInfoEntry{Info: info, Err: entryError(err)}
	}), nil
}

// BulkMetrics is the like of BulkInfo for metrics. Ids of processes with an
// own image are valid handles here.
func (g *Gardener) BulkMetrics(handles []string) (map[string]garden.ContainerMetricsEntry, error) {
	return bulk(handles, func(handle string) garden.ContainerMetricsEntry {
		metrics, err := (&container{gardener: g, handle: handle}).Metrics()
		if _, taken := g.handles.get(handle); unknown(err) && !taken {
			if pea, peaErr := g.peaMetrics(handle); peaErr == nil {
				metrics, err = pea, nil
			} else if !unknown(peaErr) {
				err = peaErr
			}
		}
		return garden.ContainerMetricsEntry{Metrics: metrics, Err: entryError(err)}
	}), nil
}

func bulk[T any](handles []string, entry func(handle string) T) map[string]T {
	var mu sync.Mutex
	entries := make(map[string]T, len(handles))
	sideBySide(handles, func(handle string) {
		e := entry(handle)
		mu.Lock()
		defer mu.Unlock()
		entries[handle] = e
	})
	return entries
}

// entryError keeps the error as it is, so that its type reaches the client.
func entryError(err error) *garden.Error {
	if err == nil {
		return nil
	}
	return &garden.Error{Err: err}
}

func unknown(err error) bool {
	_, noContainer := errors.AsType[garden.ContainerNotFoundError](err)
	_, noProcess := errors.AsType[garden.ProcessNotFoundError](err)
	return noContainer || noProcess
}

// sideBySide runs fn for each of the items, bulkWidth at a time, and waits.
func sideBySide[T any](items []T, fn func(T)) {
	queue := make(chan T)
	var workers sync.WaitGroup
	for range min(bulkWidth, len(items)) {
		workers.Go(func() {
			for item := range queue {
				fn(item)
			}
		})
	}
	for _, item := range items {
		queue <- item
	}
	close(queue)
	workers.Wait()
}

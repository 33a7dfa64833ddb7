package gardener

import (
	"maps"
	"slices"

	"code.cloudfoundry.org/garden"
)

// Containers lists the containers all of whose given properties match, in
// the order of their handles. Unless the filter names a garden.state, only
// completely created ones; "all" lists what failed operations left, too.
func (g *Gardener) Containers(props garden.Properties) ([]garden.Container, error) {
	if err := g.learn(); err != nil {
		return nil, err
	}
	filter := byState(props)
	found := []garden.Container{}
	for _, handle := range slices.Sorted(g.handles.visible()) {
		if len(filter) == 0 || g.PropertyManager.MatchesAll(handle, filter) {
			found = append(found, &container{gardener: g, handle: handle})
		}
	}
	return found, nil
}

func byState(props garden.Properties) garden.Properties {
	filter := garden.Properties{StateKey: StateCreated}
	maps.Copy(filter, props)
	if filter[StateKey] == StateAll {
		delete(filter, StateKey)
	}
	return filter
}

// Lookup answers the container, or a ContainerNotFoundError.
func (g *Gardener) Lookup(handle string) (garden.Container, error) {
	if _, err := g.find(handle); err != nil {
		return nil, err
	}
	return &container{gardener: g, handle: handle}, nil
}

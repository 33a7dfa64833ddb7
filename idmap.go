package verger

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/verger-garden/verger/sysinfo"
)

// idMappings are those of unprivileged containers.
func (c Config) idMappings() (uids, gids []specs.LinuxIDMapping, err error) {
	for _, kind := range []struct {
		name          string
		highest       func() (uint32, error)
		start, length uint32
		mappings      *[]specs.LinuxIDMapping
	}{
		{"uid map", sysinfo.MaxUID, c.UIDMapStart, c.UIDMapLength, &uids},
		{"gid map", sysinfo.MaxGID, c.GIDMapStart, c.GIDMapLength, &gids},
	} {
		highest, err := kind.highest()
		if err != nil {
			return nil, nil, err
		}
		if *kind.mappings, err = idMappings(highest, kind.start, kind.length); err != nil {
			return nil, nil, fmt.Errorf("%s %w", kind.name, err)
		}
	}
	return uids, gids, nil
}

// idMappings says which ids of the host the users of containers have: root
// the highest that there is, which no account of the host has, and the others
// length ids from start on. A start of 0 means 1, since 0 would make a user
// of the container the host's root; a length of 0 means all up to the highest.
func idMappings(highest, start, length uint32) ([]specs.LinuxIDMapping, error) {
	start = max(start, 1)
	if start >= highest {
		return nil, fmt.Errorf("from %d: ids of this host end at %d", start, highest)
	}
	room := highest - start
	if length == 0 {
		length = room
	}
	if length > room {
		return nil, fmt.Errorf("of %d ids from %d: there are only %d below %d", length, start, room, highest)
	}
	return []specs.LinuxIDMapping{
		{ContainerID: 0, HostID: highest, Size: 1},
		{ContainerID: 1, HostID: start, Size: length},
	}, nil
}

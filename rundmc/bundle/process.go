package bundle

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/verger-garden/verger/gardener/spec"
)

// InitInside is where gdn-init lies in the container. /dev is a tmpfs of the
// container's own, so no root file system is touched to make room for it, and
// nothing an image holds can stand in its way.
const InitInside = "/dev/.gdn-init"

func rootFS(_ Config, d spec.DesiredContainerSpec, s *specs.Spec) error {
	base := d.BaseConfig.Root
	if base == nil || base.Path == "" {
		return errors.New("no root file system is given")
	}
	s.Root = &specs.Root{Path: base.Path, Readonly: base.Readonly}
	s.Linux.RootfsPropagation = "private"
	return nil
}

// process is the container's init: root of its user namespace, without a
// terminal, with no group of the server's.
func process(c Config, _ spec.DesiredContainerSpec, s *specs.Spec) error {
	if c.InitPath == "" {
		return errors.New("no init program is given")
	}
	s.Process.Args = []string{InitInside}
	s.Process.Cwd = "/"
	s.Process.Rlimits = slices.Clone(c.DefaultRlimits)
	return nil
}

// environment is the image's, then the container's: the later value wins.
func environment(_ Config, d spec.DesiredContainerSpec, s *specs.Spec) error {
	if p := d.BaseConfig.Process; p != nil {
		s.Process.Env = append(s.Process.Env, p.Env...)
	}
	s.Process.Env = append(s.Process.Env, d.Env...)
	for _, entry := range s.Process.Env {
		name, _, found := strings.Cut(entry, "=")
		switch {
		case strings.ContainsRune(entry, 0):
			return errors.New("an entry holds a NUL byte")
		case !found:
			return errors.New("an entry has no '='") // nor do we show it: it may be a secret
		case name == "":
			return errors.New("an entry has no name")
		}
	}
	return nil
}

// hostnameLength is what host names are cut to, from the left, since a
// handle's end tells it from others.
const hostnameLength = 49

// hostname leaves a joined UTS namespace as it is.
func hostname(_ Config, d spec.DesiredContainerSpec, s *specs.Spec) error {
	if !isNew(s, specs.UTSNamespace) {
		return nil
	}
	name := d.Hostname
	if name == "" {
		name = d.Handle
	}
	if strings.ContainsAny(name, "\x00/") {
		return fmt.Errorf("%q is not a host name", name)
	}
	s.Hostname = name[max(0, len(name)-hostnameLength):]
	return nil
}

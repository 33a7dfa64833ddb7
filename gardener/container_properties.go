package gardener

import (
	"fmt"
	"strconv"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
)

func (c *container) Properties() (props garden.Properties, err error) {
	ho, err := c.gardener.find(c.handle)
	if err != nil {
		return nil, err
	}
	err = ho.use(func() (err error) {
		props, err = c.gardener.PropertyManager.All(c.handle)
		return err
	})
	return props, err
}

func (c *container) Property(name string) (value string, err error) {
	ho, err := c.gardener.find(c.handle)
	if err != nil {
		return "", err
	}
	err = ho.use(func() error {
		var ok bool
		if value, ok = c.gardener.PropertyManager.Get(c.handle, name); !ok {
			return fmt.Errorf("property does not exist: %s", name)
		}
		return nil
	})
	return value, err
}

func (c *container) SetProperty(name string, value string) error {
	ho, err := c.gardener.find(c.handle)
	if err != nil {
		return err
	}
	if err := writable(name); err != nil {
		return err
	}
	return ho.use(func() error {
		return c.gardener.save(c.handle, garden.Properties{name: value})
	})
}

func (c *container) RemoveProperty(name string) error {
	ho, err := c.gardener.find(c.handle)
	if err != nil {
		return err
	}
	if err := writable(name); err != nil {
		return err
	}
	return ho.use(func() error { return c.gardener.PropertyManager.Remove(c.handle, name) })
}

func (c *container) SetGraceTime(d time.Duration) error {
	ho, err := c.gardener.find(c.handle)
	if err != nil {
		return err
	}
	return ho.use(func() error {
		return c.gardener.save(c.handle, garden.Properties{GraceTimeKey: graceTime(d)})
	})
}

// GraceTime is how long the container may go unused before it is to be
// destroyed; 0 means for ever.
func (g *Gardener) GraceTime(container garden.Container) time.Duration {
	recorded, ok := g.PropertyManager.Get(container.Handle(), GraceTimeKey)
	if !ok {
		return 0
	}
	ns, err := strconv.ParseInt(recorded, 10, 64)
	if err != nil {
		// No error can be returned; for ever is the choice that loses nothing.
		g.Logger.Error("parse-grace-time", err, lager.Data{"handle": container.Handle()})
		return 0
	}
	return time.Duration(ns)
}

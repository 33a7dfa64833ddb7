package gardener

import (
	"io"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
)

var _ garden.Container = (*container)(nil)

// A container is a name for calls to the components: it holds no state, and
// each call asks anew whether the container exists.
type container struct {
	gardener *Gardener
	handle   string
}

func (c *container) Handle() string { return c.handle }

// begin opens a call: it answers the container's holder and a log session.
func (c *container) begin(session string) (*holder, lager.Logger, error) {
	ho, err := c.gardener.find(c.handle)
	if err != nil {
		return nil, nil, err
	}
	return ho, c.gardener.Logger.Session(session, lager.Data{"handle": c.handle}), nil
}

func (c *container) Run(processSpec garden.ProcessSpec, processIO garden.ProcessIO) (garden.Process, error) {
	_, log, err := c.begin("run")
	if err != nil {
		return nil, err
	}
	return c.gardener.Containerizer.Run(log, c.handle, processSpec, processIO)
}

func (c *container) Attach(processID string, processIO garden.ProcessIO) (garden.Process, error) {
	_, log, err := c.begin("attach")
	if err != nil {
		return nil, err
	}
	return c.gardener.Containerizer.Attach(log, c.handle, processID, processIO)
}

func (c *container) Stop(kill bool) error {
	_, log, err := c.begin("stop")
	if err != nil {
		return err
	}
	return c.gardener.Containerizer.Stop(log, c.handle, kill)
}

func (c *container) StreamIn(streamInSpec garden.StreamInSpec) error {
	_, log, err := c.begin("stream-in")
	if err != nil {
		return err
	}
	return c.gardener.Containerizer.StreamIn(log, c.handle, streamInSpec)
}

func (c *container) StreamOut(streamOutSpec garden.StreamOutSpec) (io.ReadCloser, error) {
	_, log, err := c.begin("stream-out")
	if err != nil {
		return nil, err
	}
	return c.gardener.Containerizer.StreamOut(log, c.handle, streamOutSpec)
}

// NetIn uses the records, since networkers keep the mapped ports there.
func (c *container) NetIn(hostPort, containerPort uint32) (mappedHost, mappedContainer uint32, err error) {
	ho, log, err := c.begin("net-in")
	if err != nil {
		return 0, 0, err
	}
	err = ho.use(func() (err error) {
		mappedHost, mappedContainer, err = c.gardener.Networker.NetIn(log, c.handle, hostPort, containerPort)
		return err
	})
	return mappedHost, mappedContainer, err
}

func (c *container) NetOut(rule garden.NetOutRule) error {
	ho, log, err := c.begin("net-out")
	if err != nil {
		return err
	}
	return ho.use(func() error { return c.gardener.Networker.NetOut(log, c.handle, rule) })
}

func (c *container) BulkNetOut(rules []garden.NetOutRule) error {
	ho, log, err := c.begin("bulk-net-out")
	if err != nil {
		return err
	}
	return ho.use(func() error { return c.gardener.Networker.BulkNetOut(log, c.handle, rules) })
}

package kawasaki

import (
	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
)

// NetIn refuses: this server does not map ports yet.
func (n *Networker) NetIn(lager.Logger, string, uint32, uint32) (uint32, uint32, error) {
	return 0, 0, errNetIn
}

// BulkNetOut refuses any rule: this server does not take them yet.
func (n *Networker) BulkNetOut(_ lager.Logger, _ string, rules []garden.NetOutRule) error {
	if len(rules) == 0 {
		return nil
	}
	return errNetOut
}

// NetOut refuses: this server does not take rules yet.
func (n *Networker) NetOut(lager.Logger, string, garden.NetOutRule) error { return errNetOut }

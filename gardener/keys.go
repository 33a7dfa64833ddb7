package gardener

import (
	"fmt"
	"strings"
)

// Keys of the properties that the server itself sets. They are visible to
// clients, who cannot write them.
const (
	ContainerIPKey        = "garden.network.container-ip"
	ContainerIPv6Key      = "garden.network.container-ipv6"
	ContainerInterfaceKey = "garden.network.interface"
	BridgeIPKey           = "garden.network.host-ip"
	ExternalIPKey         = "garden.network.external-ip"

	// MappedPortsKey holds a JSON list of garden.PortMapping.
	MappedPortsKey = "garden.network.mapped-ports"

	// GraceTimeKey holds nanoseconds in decimal.
	GraceTimeKey = "garden.grace-time"

	// LimitsKey holds, as JSON, the disk and bandwidth limits asked for.
	LimitsKey = "garden.limits"

	// StateKey holds StateCreated once create has succeeded.
	StateKey = "garden.state"

	// DestroyingKey is there from the moment a client asked for destruction,
	// so that a restart finishes it.
	DestroyingKey = "garden.destroying"
)

// Values of StateKey; StateAll only in a filter, where it means any.
const (
	StateCreated = "created"
	StateAll     = "all"
)

// HealthcheckKey is set to "true" by clients on containers of which they
// want no network metrics.
const HealthcheckKey = "network.healthcheck"

// reserved prefixes belong to the server: whoever could write below them
// could hide a container or misdirect its teardown.
var reserved = []string{"garden.", "kawasaki.", "rundmc."}

// writable returns nil if clients may write the property. The error does not
// repeat the name, which must not reach a log.
func writable(name string) error {
	for _, prefix := range reserved {
		if strings.HasPrefix(name, prefix) {
			return fmt.Errorf("property names that begin with %q are reserved", prefix)
		}
	}
	return nil
}

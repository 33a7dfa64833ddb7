package kawasaki

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"

	"github.com/verger-garden/verger/internal/netns"
)

// PrepareNetwork leases a subnet and starts making all that does not need the
// container, so that Network need not wait for it. It is optional, and
// refuses what Network would refuse.
func (n *Networker) PrepareNetwork(_ lager.Logger, spec garden.ContainerSpec) error {
	if err := supported(spec); err != nil {
		return err
	}
	_, err := n.attach(spec.Handle)
	return err
}

// Network connects the container whose first process is pid. When it returns,
// packets flow and the firewall stands. What it has done when it fails is for
// Destroy to undo.
func (n *Networker) Network(log lager.Logger, spec garden.ContainerSpec, pid int) error {
	if err := supported(spec); err != nil {
		return err
	}
	a, err := n.attach(spec.Handle)
	if err != nil {
		return err
	}
	ns, err := openNamespace(pid)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }() // read only

	if n.config.Properties != nil {
		if err := n.config.Properties.SetAll(spec.Handle, n.properties(a.lease)); err != nil {
			return fmt.Errorf("record network properties: %w", err)
		}
	}
	// Until the rules stand, those for all containers drop what it sends.
	<-a.bridged
	if a.bridgeErr != nil {
		return a.bridgeErr
	}
	if err := n.plumber().connect(a.lease, ns); err != nil {
		return err
	}
	<-a.ready
	if a.rulesErr != nil {
		return a.rulesErr
	}
	log.Info("networked", lager.Data{"handle": spec.Handle, "address": a.lease.Address.String()})
	return nil
}

// supported refuses what this server does not do yet.
func supported(spec garden.ContainerSpec) error {
	switch {
	case spec.Network != "":
		return fmt.Errorf("network %q: this server gives out addresses by itself and takes no wishes yet", spec.Network)
	case len(spec.NetIn) > 0:
		return errNetIn
	case len(spec.NetOut) > 0:
		return errNetOut
	}
	return nil
}

// openNamespace opens the network namespace of a process, which must not be
// the host's: there, a container's address and route would cut the host off.
func openNamespace(pid int) (*os.File, error) {
	ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open network namespace: %w", err), ns.Close())
	}
	defer func() { _ = own.Close() }() // read only
	same, err := netns.Same(ns, own)
	if err == nil && same {
		err = fmt.Errorf("process %d has no network namespace of its own", pid)
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

func (n *Networker) plumber() plumber { return plumber{n.names, n.host.mtu} }

// properties are what clients may read about a lease.
func (n *Networker) properties(l Lease) garden.Properties {
	var dns []string
	for _, server := range n.config.DNSServers {
		dns = append(dns, server.String())
	}
	return garden.Properties{
		"garden.network.container-ip":  l.Address.String(),
		"garden.network.host-ip":       l.Gateway.String(),
		"garden.network.external-ip":   n.host.externalIP.String(),
		"garden.network.interface":     n.names.ContainerLink(l.ID),
		"kawasaki.host-interface":      n.names.HostLink(l.ID),
		"kawasaki.container-interface": n.names.ContainerLink(l.ID),
		"kawasaki.bridge-interface":    n.names.Bridge(l.Subnet),
		"kawasaki.subnet":              l.Subnet.String(),
		"kawasaki.iptable-prefix":      n.names.Prefix(),
		"kawasaki.iptable-inst":        l.ID,
		"kawasaki.mtu":                 strconv.Itoa(n.host.mtu),
		"kawasaki.dns-servers":         strings.Join(dns, ", "),
		"kawasaki.host-entries":        strings.Join(n.config.AdditionalHostEntries, ", "),
	}
}

package kawasaki

import (
	"crypto/rand"
	"net/netip"

	"github.com/verger-garden/verger/kawasaki/firewall"
)

// A Lease is all that is needed to take back what a container got. Names of
// links and chains follow from it and the server's tag.
type Lease struct {
	Handle  string       `json:"handle"`
	ID      string       `json:"id"`
	Subnet  netip.Prefix `json:"subnet"`
	Gateway netip.Addr   `json:"gateway"`
	Address netip.Addr   `json:"address"`
}

// newLease gives the first host of subnet to the gateway and the next to the
// container.
func newLease(handle string, subnet netip.Prefix) Lease {
	gateway := subnet.Addr().Next()
	return Lease{
		Handle:  handle,
		ID:      newID(),
		Subnet:  subnet,
		Gateway: gateway,
		Address: gateway.Next(),
	}
}

// newID returns 50 random bits, in letters that links and chains may have.
func newID() string {
	id := make([]byte, firewall.IDLength)
	_, _ = rand.Read(id) // never fails
	for i, b := range id {
		id[i] = firewall.IDAlphabet[b%32]
	}
	return string(id)
}

// container is the lease as the firewall sees it.
func (l Lease) container(n firewall.Names) firewall.Container {
	return firewall.Container{
		ID:      l.ID,
		Handle:  l.Handle,
		Bridge:  n.Bridge(l.Subnet),
		Subnet:  l.Subnet,
		Address: l.Address,
	}
}

// sound tells whether a recorded lease can be one of ours.
func (l Lease) sound() bool {
	return l.ID != "" && l.Handle != "" && l.Subnet.IsValid() && l.Subnet.Addr().Is4() &&
		l.Subnet == l.Subnet.Masked() && l.Subnet.Contains(l.Gateway) && l.Subnet.Contains(l.Address)
}

package kawasaki

import (
	"context"
	"errors"

	"github.com/verger-garden/verger/internal/handle"
	"github.com/verger-garden/verger/kawasaki/firewall"
)

// An attachment is one container's network while it is made, used and taken
// back. What a channel announces may be read once it is closed.
type attachment struct {
	leased   chan struct{} // lease and leaseErr
	lease    Lease
	leaseErr error

	bridged   chan struct{} // bridgeErr
	bridgeErr error

	ready    chan struct{} // rulesErr; nobody works on it any more
	rulesErr error
}

func newAttachment() *attachment {
	return &attachment{
		leased:  make(chan struct{}),
		bridged: make(chan struct{}),
		ready:   make(chan struct{}),
	}
}

// standing is the attachment of a recorded lease whose work is done.
func standing(l Lease) *attachment {
	a := newAttachment()
	a.lease = l
	close(a.leased)
	close(a.bridged)
	close(a.ready)
	return a
}

// attach returns the attachment of a handle, with its lease on record, and if
// it is new has its bridge and rules made in the background.
func (n *Networker) attach(h string) (*attachment, error) {
	if err := handle.Validate(h); err != nil {
		return nil, err
	}
	n.mu.Lock()
	a, ok := n.live[h]
	if !ok {
		a = newAttachment()
		n.live[h] = a
		n.builders.Go(func() { n.build(h, a) })
	}
	n.mu.Unlock()
	<-a.leased
	return a, a.leaseErr
}

func (n *Networker) build(h string, a *attachment) {
	defer close(a.ready)
	a.lease, a.leaseErr = n.lease(h)
	if a.leaseErr != nil {
		n.mu.Lock()
		delete(n.live, h)
		n.mu.Unlock()
	}
	close(a.leased)
	if a.leaseErr != nil {
		close(a.bridged)
		return
	}
	a.bridgeErr = n.plumber().bridge(a.lease)
	close(a.bridged)
	a.rulesErr = n.rules.Apply(firewall.Change{Add: []firewall.Container{a.lease.container(n.names)}})
}

// lease takes a subnet and records it. If all are in use but for some that
// are being taken back, it waits for those.
func (n *Networker) lease(h string) (Lease, error) {
	if !n.pool.Spare() {
		n.worker.hurry()
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortage)
	defer cancel()
	subnet, err := n.pool.Lease(ctx)
	if err != nil {
		return Lease{}, err
	}
	l := newLease(h, subnet)
	if err := n.records.write(l); err != nil {
		n.pool.Release(subnet)
		n.worker.wake() // its bridge, if it has one, is idle again
		return Lease{}, errors.Join(err, n.records.discard(h))
	}
	return l, nil
}

package kawasaki

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"code.cloudfoundry.org/lager/v3"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/kawasaki/firewall"
)

// A worker is the goroutine that takes back what resting leases hold. Waking
// it is cheap and never waits.
type worker struct {
	woken, hurried, quit chan struct{}
	once                 sync.Once
	running              sync.WaitGroup
}

func newWorker() *worker {
	return &worker{
		woken:   make(chan struct{}, 1),
		hurried: make(chan struct{}, 1),
		quit:    make(chan struct{}),
	}
}

// stop ends the worker and waits for it.
func (w *worker) stop() {
	w.once.Do(func() { close(w.quit) })
	w.running.Wait()
}

// wake says that there is something to take back.
func (w *worker) wake() { poke(w.woken) }

// hurry says that somebody waits for it.
func (w *worker) hurry() { poke(w.hurried) }

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// takeBack runs until the worker is to quit. It gathers what comes within a
// moment, since one restore for many costs hardly more than for one, and
// removes bridges that nobody wants.
func (n *Networker) takeBack() {
	var due, idle <-chan time.Time
	for {
		select {
		case <-n.worker.quit:
			return
		case <-n.worker.woken:
			if due == nil {
				due = time.After(linger)
			}
		case <-n.worker.hurried:
			due = n.clearNow()
		case <-due:
			due = n.clearNow()
		case <-idle:
			idle = nil
			if err := n.removeIdle(); err != nil {
				n.log.Error("remove-idle-bridge", err)
			}
		}
		if idle == nil {
			idle = n.nextIdle()
		}
	}
}

// clearNow takes back what it can and tells when to try the rest again, if
// there is any.
func (n *Networker) clearNow() <-chan time.Time {
	if err := n.clear(); err != nil {
		n.log.Error("take-back-network", err)
		return time.After(retry)
	}
	return nil
}

// clear removes links, rules and records of all resting leases and gives
// their subnets back, which makes the bridges idle. What fails keeps its lease
// resting.
func (n *Networker) clear() error {
	n.mu.Lock()
	batch := n.resting
	n.resting = nil
	n.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	start := time.Now()
	left, err := n.clearBatch(batch)
	if len(left) > 0 {
		n.mu.Lock()
		n.resting = append(n.resting, left...)
		n.mu.Unlock()
	}
	if done := len(batch) - len(left); done > 0 {
		n.log.Info("took-back-networks", lager.Data{"leases": done, "took": time.Since(start).String()})
	}
	return err
}

// clearBatch returns the leases that still hold something. The link goes
// first, so that even a container that outlived its Destroy is cut off before
// anything of it is forgotten.
func (n *Networker) clearBatch(batch []*attachment) (left []*attachment, err error) {
	for _, a := range batch {
		<-a.ready
	}
	p := n.plumber()
	batch, left, err = each(batch, func(l Lease) error { return p.disconnect(l) })

	var change firewall.Change
	for _, a := range batch {
		change.Remove = append(change.Remove, a.lease.container(n.names))
	}
	if len(batch) > 0 {
		if failed := n.rules.Apply(change); failed != nil {
			return append(left, batch...), errors.Join(err, failed)
		}
		forgetFlows(n.log, batch)
	}

	_, stuck, failed := each(batch, func(l Lease) error {
		if !n.pool.Owns(l.Subnet) { // but an earlier, different pool did
			if err := p.removeBridge(l.Subnet); err != nil {
				return err
			}
		}
		if err := n.records.forget(l); err != nil {
			return fmt.Errorf("remove lease of %s: %w", l.Handle, err)
		}
		n.pool.Release(l.Subnet)
		return nil
	})
	return append(left, stuck...), errors.Join(err, failed)
}

// each does f for all leases, several at a time because removing a link means
// waiting for the kernel, and tells for which it went well.
func each(batch []*attachment, f func(Lease) error) (done, left []*attachment, err error) {
	const atOnce = 8
	errs := make([]error, len(batch))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, a := range batch {
		group.Go(func() error {
			errs[i] = f(a.lease)
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	for i, a := range batch {
		if errs[i] == nil {
			done = append(done, a)
		} else {
			left = append(left, a)
		}
	}
	return done, left, errors.Join(errs...)
}

// forgetFlows makes the kernel forget the connections of addresses that are
// to be handed out again: the answers to them are not for the next holder.
func forgetFlows(log lager.Logger, batch []*attachment) {
	gone := flowsOf{}
	for _, a := range batch {
		gone[a.lease.Address] = true
	}
	// Not an error: it needs a kernel module that not every host has, and
	// the firewall does not depend on it.
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, gone); err != nil {
		log.Debug("forget-flows", lager.Data{"error": err.Error()})
	}
}

// flowsOf matches every flow from or to one of the addresses.
type flowsOf map[netip.Addr]bool

func (f flowsOf) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	for _, ip := range [][]byte{flow.Forward.SrcIP, flow.Forward.DstIP, flow.Reverse.SrcIP} {
		if address, ok := netip.AddrFromSlice(ip); ok && f[address.Unmap()] {
			return true
		}
	}
	return false
}

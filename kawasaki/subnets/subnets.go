// Package subnets hands out the /30 subnets of an address pool, one to a
// container.
//
// A subnet that comes back rests for a while, so that packets and flows of its
// last holder are gone before it has a new one. What has rested is handed out
// again before anything else, longest rested first, since its last holder may
// have left something of use. What nobody wants can be reclaimed, to remove
// that; from then on it is like one that was never leased.
package subnets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// bits is the size of a lease: network, gateway, container and broadcast.
const bits = 30

var (
	// ErrExhausted means that every subnet of the pool is in use.
	ErrExhausted = errors.New("insufficient subnets remaining in the pool")

	// ErrTaken means that the subnet is in use already.
	ErrTaken = errors.New("the subnet is already in use")

	// ErrForeign means that the subnet is no /30 of this pool.
	ErrForeign = errors.New("the subnet is not part of the pool")
)

// A Pool knows which /30 subnets of a prefix are in use. It may be used from
// several goroutines.
type Pool struct {
	prefix netip.Prefix
	rest   time.Duration

	mu      sync.Mutex
	state   map[netip.Prefix]state // every subnet below fresh, and those taken above it
	fresh   uint64                 // where to look for one without a state
	queue   []released             // free ones that had a holder, longest rested first
	retired int                    // how many have that state
	changed chan struct{}          // closed and replaced whenever a waiter should look again
}

type state int

const (
	queued state = iota + 1
	leased
	retired
)

type released struct {
	subnet netip.Prefix
	at     time.Time
}

// New returns the pool of the /30 subnets of prefix. A released subnet rests
// at least as long as rest says.
func New(prefix netip.Prefix, rest time.Duration) (*Pool, error) {
	if !prefix.IsValid() || !prefix.Addr().Is4() || prefix.Bits() > bits {
		return nil, fmt.Errorf("network pool %s: must be an IPv4 prefix of /%d or larger", prefix, bits)
	}
	return &Pool{
		prefix:  prefix.Masked(),
		rest:    rest,
		state:   map[netip.Prefix]state{},
		changed: make(chan struct{}),
	}, nil
}

// Capacity is the number of subnets in the pool.
func (p *Pool) Capacity() uint64 { return 1 << (bits - p.prefix.Bits()) }

// Used is the number of subnets that are leased or retired.
func (p *Pool) Used() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used()
}

func (p *Pool) used() uint64 { return uint64(len(p.state) - len(p.queue)) }

// Lease takes a subnet that nobody holds: the one that has rested longest, else
// one that was never leased. If only resting and retired ones are left, it
// waits for the first of them, at most until ctx ends. It fails with
// ErrExhausted.
func (p *Pool) Lease(ctx context.Context) (netip.Prefix, error) {
	for {
		s, wait, changed, err := p.next()
		if err != nil || s.IsValid() {
			return s, err
		}
		var rested <-chan time.Time
		if wait > 0 {
			rested = time.After(wait)
		}
		select {
		case <-rested:
		case <-changed:
		case <-ctx.Done():
			return netip.Prefix{}, p.exhausted()
		}
	}
}

// next leases a subnet, or tells how long the next one still rests and what
// to wait for besides.
func (p *Pool) next() (s netip.Prefix, wait time.Duration, changed <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) > 0 {
		if wait = p.rest - p.rested(); wait <= 0 {
			return p.pop(leased), 0, nil, nil
		}
	}
	for p.fresh < p.Capacity() {
		s := p.at(p.fresh)
		p.fresh++
		if p.state[s] == 0 {
			p.state[s] = leased
			return s, 0, nil, nil
		}
	}
	if len(p.queue) > 0 || p.retired > 0 {
		return netip.Prefix{}, wait, p.changed, nil
	}
	return netip.Prefix{}, 0, nil, p.exhaustedLocked()
}

// pop takes the first of the queue.
func (p *Pool) pop(to state) netip.Prefix {
	s := p.queue[0].subnet
	p.queue = p.queue[1:]
	p.state[s] = to
	return s
}

// rested is how long the first of the queue has been there.
func (p *Pool) rested() time.Duration { return time.Since(p.queue[0].at) }

// Spare tells whether Lease would answer at once.
func (p *Pool) Spare() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if uint64(len(p.state)) < p.Capacity() {
		return true
	}
	return len(p.queue) > 0 && p.rested() >= p.rest
}

// Owns tells whether s is a subnet of this pool.
func (p *Pool) Owns(s netip.Prefix) bool {
	return s.Bits() == bits && s == s.Masked() && p.prefix.Contains(s.Addr())
}

// Take leases exactly s, as a restart does with the subnets it finds recorded.
// It fails with ErrForeign or ErrTaken.
func (p *Pool) Take(s netip.Prefix) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.Owns(s) {
		return fmt.Errorf("take %s: %w", s, ErrForeign)
	}
	switch p.state[s] {
	case leased, retired:
		return fmt.Errorf("take %s: %w", s, ErrTaken)
	case queued:
		p.queue = slices.DeleteFunc(p.queue, func(r released) bool { return r.subnet == s })
	}
	p.state[s] = leased
	return nil
}

// Retire says that the holder of s is gone and that its Release is sure to
// follow, so that Lease waits for it rather than fail. A subnet that is not
// leased stays as it is.
func (p *Pool) Retire(s netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state[s] == leased {
		p.state[s] = retired
		p.retired++
		p.wake()
	}
}

// Release gives s back; from now on it rests. A subnet that is not in use
// stays as it is.
func (p *Pool) Release(s netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state[s] {
	case retired:
		p.retired--
	case leased:
	default:
		return
	}
	p.state[s] = queued
	p.queue = append(p.queue, released{s, time.Now()})
	p.wake()
}

// Rested is how long the subnet that was released first has been nobody's; false:
// there is none to reclaim.
func (p *Pool) Rested() (time.Duration, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return 0, false
	}
	return p.rested(), true
}

// Reclaim takes the subnet that was released first, if it has been nobody's for
// idle, to remove what its holders left. Lease waits for it: Return or Release
// must follow soon.
func (p *Pool) Reclaim(idle time.Duration) (netip.Prefix, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 || p.rested() < idle {
		return netip.Prefix{}, false
	}
	p.retired++
	return p.pop(retired), true
}

// Return gives a reclaimed subnet back as if it had never been leased. Any other
// stays as it is.
func (p *Pool) Return(s netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state[s] != retired {
		return
	}
	p.retired--
	delete(p.state, s)
	p.fresh = min(p.fresh, p.index(s))
	p.wake()
}

func (p *Pool) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Pool) exhausted() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exhaustedLocked()
}

func (p *Pool) exhaustedLocked() error {
	return fmt.Errorf("%w: %d of %d /%d subnets of %s in use; enlarge it with --network-pool",
		ErrExhausted, p.used(), p.Capacity(), bits, p.prefix)
}

// at is the subnet with an index, which counts from the start of the pool.
func (p *Pool) at(i uint64) netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], number(p.prefix)+uint32(i<<(32-bits)))
	return netip.PrefixFrom(netip.AddrFrom4(a), bits)
}

func (p *Pool) index(s netip.Prefix) uint64 {
	return uint64(number(s)-number(p.prefix)) >> (32 - bits)
}

func number(p netip.Prefix) uint32 {
	a := p.Addr().As4()
	return binary.BigEndian.Uint32(a[:])
}

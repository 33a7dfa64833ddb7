// Package iptables applies a firewall.Policy with the iptables programs.
//
// Every change is one iptables-restore, which the kernel takes whole. Changes
// that arrive while one is being applied go together into the next. When the
// kernel's rules turn out not to be what they should be, as after a flush by
// somebody else, all of ours are written anew.
package iptables

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"code.cloudfoundry.org/lager/v3"
	goiptables "github.com/coreos/go-iptables/iptables"

	"github.com/verger-garden/verger/kawasaki/firewall"
)

// Config says whose rules are written with what.
type Config struct {
	Names  firewall.Names
	Policy firewall.Policy

	// Iptables is a program by name or path; empty: iptables. What serves
	// IPv6 has the same name with ip6tables instead.
	Iptables string

	// Restore is its counterpart; empty: Iptables with -restore added.
	Restore string

	Log lager.Logger // nil: silent
}

// A Firewall holds the rules of one server.
type Firewall struct {
	config Config
	v4, v6 *family // v6 is nil if the kernel has no IPv6

	mu      sync.Mutex
	pending []*request
	running bool
	workers sync.WaitGroup

	// Only the one worker touches these.
	applied map[string]firewall.Container
	rules   []string // as the kernel had them when they were listed
	listed  time.Time
}

type request struct {
	change  firewall.Change
	rewrite bool // all rules, whatever stands
	check   bool // rewrite if the rules of change.Add do not stand
	done    chan error
}

// New returns a firewall that has touched nothing yet.
func New(c Config) *Firewall {
	if c.Iptables == "" {
		c.Iptables = "iptables"
	}
	if c.Restore == "" {
		c.Restore = c.Iptables + "-restore"
	}
	if c.Log == nil {
		c.Log = lager.NewLogger("iptables")
	}
	return &Firewall{config: c, applied: map[string]firewall.Container{}}
}

// Start checks the programs and makes the rules exactly those of the policy
// and containers, whatever an earlier server left.
func (f *Firewall) Start(containers []firewall.Container) error {
	if err := f.open(); err != nil {
		return err
	}
	return f.do(&request{change: firewall.Change{Add: containers}, rewrite: true})
}

func (f *Firewall) open() error {
	var err error
	if f.v4, err = newFamily(goiptables.ProtocolIPv4, f.config.Iptables, f.config.Restore); err != nil {
		return err
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return nil // the kernel speaks no IPv6, so there is nothing to drop
	}
	f.v6, err = newFamily(goiptables.ProtocolIPv6, six(f.config.Iptables), six(f.config.Restore))
	return err
}

// six is the program that does for IPv6 what the given one does for IPv4.
func six(program string) string {
	dir, base := filepath.Split(program)
	return dir + strings.Replace(base, "iptables", "ip6tables", 1)
}

// Apply makes one change and returns when the kernel has it. Containers to be
// removed that are not there are taken as done.
func (f *Firewall) Apply(change firewall.Change) error {
	return f.do(&request{change: change})
}

// Restore makes sure that the rules of c stand, and writes all anew if they
// do not.
func (f *Firewall) Restore(c firewall.Container) error {
	return f.do(&request{change: firewall.Change{Add: []firewall.Container{c}}, check: true})
}

// Stop waits until nothing is being applied. The rules stay.
func (f *Firewall) Stop() { f.workers.Wait() }

// Uninstall takes away all rules and chains of this server.
func (f *Firewall) Uninstall() error {
	f.Stop()
	if f.v4 == nil {
		if err := f.open(); err != nil {
			return err
		}
	}
	err := f.uninstall(f.v4, jumps4(f.config.Names))
	if f.v6 != nil {
		err = errors.Join(err, f.uninstall(f.v6, jumps6(f.config.Names)))
	}
	return err
}

func (f *Firewall) uninstall(in *family, jumps []jump) error {
	found, err := in.look(jumps, f.config.Names.Prefix())
	if err != nil {
		return err
	}
	return in.apply(gone(jumps, found))
}

// do queues a request, sees to it that a worker runs, and waits.
func (f *Firewall) do(r *request) error {
	if f.v4 == nil {
		return errors.New("the firewall has not been started")
	}
	r.done = make(chan error, 1)
	f.mu.Lock()
	f.pending = append(f.pending, r)
	if !f.running {
		f.running = true
		f.workers.Go(f.work)
	}
	f.mu.Unlock()
	return <-r.done
}

// work applies what is pending, all of it at a time, until nothing is.
func (f *Firewall) work() {
	for {
		f.mu.Lock()
		batch := f.pending
		f.pending = nil
		f.running = len(batch) > 0
		f.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		err := f.applyAll(batch)
		for _, r := range batch {
			r.done <- err
		}
	}
}

// applyAll makes the changes of a batch by one restore, if the kernel lets it.
func (f *Firewall) applyAll(batch []*request) error {
	next := maps.Clone(f.applied)
	var change firewall.Change
	rewrite := false
	for _, r := range batch {
		rewrite = rewrite || r.rewrite || r.check && !f.stands(r.change.Add)
		for _, c := range r.change.Remove {
			if known, ok := f.applied[c.ID]; ok && next[c.ID] == known {
				change.Remove = append(change.Remove, known)
			}
			delete(next, c.ID)
		}
		for _, c := range r.change.Add {
			if _, ok := next[c.ID]; !ok {
				change.Add = append(change.Add, c)
			}
			next[c.ID] = c
		}
	}
	// One that came and went within the batch is not to be written.
	change.Add = slices.DeleteFunc(change.Add, func(c firewall.Container) bool { return next[c.ID] != c })

	if !rewrite {
		err := f.v4.apply(delta(f.config.Names, change))
		if err == nil {
			f.applied = next
			return nil
		}
		f.config.Log.Info("rewriting-all-rules", lager.Data{"because": err.Error()})
	}
	if err := f.rewrite(slices.Collect(maps.Values(next))); err != nil {
		return err
	}
	f.applied, f.listed = next, time.Time{}
	return nil
}

// stands tells whether all of containers are applied and still in the kernel.
// In doubt, they do not.
func (f *Firewall) stands(containers []firewall.Container) bool {
	for _, c := range containers {
		if f.applied[c.ID] != c {
			return false
		}
	}
	if time.Since(f.listed) > time.Second {
		f.rules, f.listed = f.list(), time.Now()
	}
	return standing(f.config.Names, containers, f.rules)
}

// list returns the rules of the chains that all containers share and of those
// that lead there, nil if they cannot be read.
func (f *Firewall) list() []string {
	n := f.config.Names
	var all []string
	for _, from := range []struct{ table, chain string }{
		{"filter", "INPUT"}, {"filter", n.Input()},
		{"filter", "FORWARD"}, {"filter", n.Forward()},
		{"nat", "POSTROUTING"}, {"nat", n.Postrouting()},
	} {
		rules, err := f.v4.rules.List(from.table, from.chain)
		if err != nil {
			return nil
		}
		all = append(all, rules...)
	}
	return all
}

// rewrite makes the kernel's rules exactly those of containers.
func (f *Firewall) rewrite(containers []firewall.Container) error {
	slices.SortFunc(containers, func(a, b firewall.Container) int { return strings.Compare(a.ID, b.ID) })
	n := f.config.Names
	found, err := f.v4.look(jumps4(n), n.Prefix())
	if err != nil {
		return err
	}
	if f.v6 != nil {
		found6, err := f.v6.look(jumps6(n), n.Prefix())
		if err != nil {
			return err
		}
		if err := f.v6.apply(whole6(n, found6)); err != nil {
			return err
		}
	}
	return f.v4.apply(whole(n, f.config.Policy, containers, found))
}

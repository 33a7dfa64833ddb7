package gardener_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"

	"code.cloudfoundry.org/garden"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/gardener/gardenertest"
)

// An account is what clients were told of one handle.
type account struct {
	created, destroyed atomic.Int64
}

// lives is how many containers of the handle there must be, once all is quiet.
func (a *account) lives() int64 { return a.created.Load() - a.destroyed.Load() }

var _ = Describe("any calls, in any order, with any faults", func() {
	const (
		rounds  = 12
		workers = 8
		ops     = 150 // of each worker in each round: 14400 in all
		handles = 6
		limit   = 4
	)

	It("keep what clients were told true", func() {
		host := newHost()
		accounts := make([]account, handles)
		name := func(i int) string { return "h" + strconv.Itoa(i) }

		g, server := boot(host)
		for round := range rounds {
			g.MaxContainers = limit
			faulty := round%3 == 1
			if faulty {
				injectRandomly(server, round)
			}
			work(g, accounts, round, workers, ops, name)
			server.Inject(nil)
			Expect(host.Violations()).To(BeEmpty())
			Expect(host.Peak()).To(BeNumerically("<=", limit))

			if faulty {
				// What is left must be listed, and can be destroyed.
				for _, handle := range listed(g, all) {
					Expect(g.Destroy(handle)).To(Succeed())
				}
				expectClean(host, g)
				clear(accounts)
			}
			if round%4 == 3 { // the server is killed in its sleep
				before := listed(g, nil)
				g, server = restart(host)
				Expect(listed(g, nil)).To(Equal(before))
			}
			for i := range accounts {
				Expect(accounts[i].lives()).To(BeElementOf(int64(0), int64(1)))
				Expect(host.Whole(name(i))).To(Equal(accounts[i].lives() == 1))
			}
		}
		for _, handle := range listed(g, all) {
			Expect(g.Destroy(handle)).To(Succeed())
		}
		expectClean(host, g)
	})
})

// injectRandomly makes every twentieth step fail, before or after it acts.
func injectRandomly(server *gardenertest.Server, seed int) {
	random := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), uint64(seed)))
	server.Inject(func(string) gardenertest.Fault { // never called at once
		switch random.IntN(40) {
		case 0:
			return gardenertest.FailBefore
		case 1:
			return gardenertest.FailAfter
		}
		return gardenertest.None
	})
}

func work(g *gardener.Gardener, accounts []account, round, workers, ops int, name func(int) string) {
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			defer GinkgoRecover()
			random := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), uint64(round*100+w)))
			for range ops {
				i := random.IntN(len(accounts))
				op(g, random, &accounts[i], name(i))
			}
		})
	}
	all.Wait()
}

// op does one random call and keeps the account.
func op(g *gardener.Gardener, random *rand.Rand, a *account, handle string) {
	switch random.IntN(8) {
	case 0, 1, 2:
		_, err := g.Create(garden.ContainerSpec{Handle: handle, Properties: garden.Properties{"life": handle}})
		if err == nil {
			a.created.Add(1)
		}
	case 3, 4:
		if g.Destroy(handle) == nil {
			a.destroyed.Add(1)
		}
	case 5:
		containers, err := g.Containers(nil)
		Expect(err).NotTo(HaveOccurred())
		seen := map[string]bool{}
		for _, c := range containers {
			Expect(seen[c.Handle()]).To(BeFalse(), "listed twice")
			seen[c.Handle()] = true
		}
	case 6:
		entries, err := g.BulkInfo([]string{handle, "never"})
		Expect(err).NotTo(HaveOccurred())
		Expect(entries["never"].Err.Err).To(Equal(notFound("never")))
	case 7:
		c, err := g.Lookup(handle)
		if err != nil {
			Expect(err).To(Equal(notFound(handle)))
			return
		}
		if err := c.SetProperty("n", fmt.Sprint(random.Int())); err != nil {
			Expect(errors.Is(err, gardenertest.ErrInjected) || err == notFound(handle)).To(BeTrue(), err.Error())
		}
		if life, err := c.Property("life"); err == nil {
			Expect(life).To(Equal(handle))
		}
	}
}

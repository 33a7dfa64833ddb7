package subnets_test

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/kawasaki/subnets"
)

func TestSubnets(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "subnets")
}

func pool(prefix string, rest time.Duration) *subnets.Pool {
	GinkgoHelper()
	p, err := subnets.New(netip.MustParsePrefix(prefix), rest)
	Expect(err).NotTo(HaveOccurred())
	return p
}

var _ = Describe("a pool", func() {
	ctx := context.Background()

	DescribeTable("refuses a prefix it cannot split",
		func(prefix netip.Prefix, shown string) {
			_, err := subnets.New(prefix, 0)
			Expect(err).To(MatchError("network pool " + shown + ": must be an IPv4 prefix of /30 or larger"))
		},
		Entry("none", netip.Prefix{}, "invalid Prefix"),
		Entry("too small", netip.MustParsePrefix("10.0.0.0/31"), "10.0.0.0/31"),
		Entry("IPv6", netip.MustParsePrefix("fd00::/24"), "fd00::/24"),
	)

	DescribeTable("counts its /30 subnets",
		func(prefix string, n uint64) { Expect(pool(prefix, 0).Capacity()).To(Equal(n)) },
		Entry(nil, "10.254.0.0/22", uint64(256)),
		Entry(nil, "10.254.0.7/30", uint64(1)),
		Entry(nil, "0.0.0.0/0", uint64(1<<30)),
	)

	It("hands out every subnet once, then says what to do", func() {
		p := pool("10.254.0.0/28", 0)
		var got []string
		for range 4 {
			s, err := p.Lease(ctx)
			Expect(err).NotTo(HaveOccurred())
			got = append(got, s.String())
		}
		Expect(got).To(Equal([]string{"10.254.0.0/30", "10.254.0.4/30", "10.254.0.8/30", "10.254.0.12/30"}))
		_, err := p.Lease(ctx)
		Expect(err).To(MatchError(subnets.ErrExhausted))
		Expect(err).To(MatchError("insufficient subnets remaining in the pool: 4 of 4 /30 subnets of 10.254.0.0/28 in use; enlarge it with --network-pool"))
	})

	It("prefers one that had a holder to one that never had", func() {
		p := pool("10.254.0.0/22", 0)
		a, _ := p.Lease(ctx)
		b, _ := p.Lease(ctx)
		p.Release(a)
		Expect(p.Lease(ctx)).To(Equal(a))
		p.Release(b)
		Expect(p.Lease(ctx)).To(Equal(b))
		Expect(p.Lease(ctx)).To(Equal(netip.MustParsePrefix("10.254.0.8/30")))
	})

	It("has the one that was released first reclaimed, once", func() {
		p := pool("10.254.0.0/29", 0)
		a, _ := p.Lease(ctx)
		b, _ := p.Lease(ctx)
		_, ok := p.Reclaim(0)
		Expect(ok).To(BeFalse())
		p.Release(b)
		p.Release(a)
		s, _ := p.Reclaim(0)
		Expect(s).To(Equal(b))
		Expect(p.Used()).To(Equal(uint64(1)))
		Expect(p.Take(b)).To(MatchError(subnets.ErrTaken))
		Expect(p.Lease(ctx)).To(Equal(a))

		p.Return(a) // no effect
		p.Return(b)
		p.Return(b) // no effect
		Expect(p.Used()).To(Equal(uint64(1)))
		_, ok = p.Reclaim(0)
		Expect(ok).To(BeFalse())
		Expect(p.Lease(ctx)).To(Equal(b))
		_, err := p.Lease(ctx)
		Expect(err).To(MatchError(subnets.ErrExhausted))
	})

	It("gives back the one that was released first", func() {
		p := pool("10.254.0.0/29", 0)
		a, _ := p.Lease(ctx)
		b, _ := p.Lease(ctx)
		p.Release(b)
		p.Release(a)
		p.Release(b) // no effect
		Expect(p.Lease(ctx)).To(Equal(b))
		Expect(p.Lease(ctx)).To(Equal(a))
		_, err := p.Lease(ctx)
		Expect(err).To(MatchError(subnets.ErrExhausted))
	})

	It("takes recorded subnets out of the way", func() {
		p := pool("10.254.0.0/29", 0)
		second := netip.MustParsePrefix("10.254.0.4/30")
		Expect(p.Take(second)).To(Succeed())
		Expect(p.Take(second)).To(MatchError(subnets.ErrTaken))
		Expect(p.Used()).To(Equal(uint64(1)))
		Expect(p.Lease(ctx)).To(Equal(netip.MustParsePrefix("10.254.0.0/30")))
		_, err := p.Lease(ctx)
		Expect(err).To(MatchError(subnets.ErrExhausted))

		p.Release(second)
		Expect(p.Take(second)).To(Succeed())
		_, err = p.Lease(ctx)
		Expect(err).To(MatchError(subnets.ErrExhausted))
	})

	DescribeTable("refuses to take what is not its own",
		func(s string) {
			Expect(pool("10.254.0.0/22", 0).Take(netip.MustParsePrefix(s))).To(MatchError(subnets.ErrForeign))
		},
		Entry("outside", "10.0.0.0/30"),
		Entry("another size", "10.254.0.0/29"),
		Entry("host bits set", "10.254.0.1/30"),
	)

	It("never hands out a subnet twice, in 200000 random steps", func() {
		seed := uint64(GinkgoRandomSeed())
		random := rand.New(rand.NewPCG(seed, seed))
		p := pool("10.254.0.0/24", 0)
		const capacity = 64
		held := map[netip.Prefix]bool{} // true: retired
		pick := func() (netip.Prefix, bool) {
			for s := range held {
				return s, true
			}
			return netip.Prefix{}, false
		}
		expired, cancel := context.WithCancel(ctx)
		cancel()
		for range 200_000 {
			switch random.IntN(9) {
			case 0, 1, 2:
				s, err := p.Lease(expired)
				if len(held) == capacity {
					Expect(err).To(MatchError(subnets.ErrExhausted))
					continue
				}
				if err != nil || !s.IsValid() {
					Fail("a free subnet was refused: " + err.Error())
				}
				if _, twice := held[s]; twice {
					Fail(s.String() + " was handed out twice")
				}
				held[s] = false
			case 3:
				s := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 254, 0, byte(random.IntN(capacity) * 4)}), 30)
				_, taken := held[s]
				if err := p.Take(s); (err != nil) != taken {
					Fail("take " + s.String() + " went wrong")
				}
				if !taken {
					held[s] = false
				}
			case 4:
				if s, ok := pick(); ok {
					p.Retire(s)
					held[s] = true
				}
			case 5:
				if s, ok := p.Reclaim(0); ok {
					if _, twice := held[s]; twice {
						Fail(s.String() + " was reclaimed from its holder")
					}
					held[s] = true
				}
			case 6:
				if s, ok := pick(); ok && held[s] {
					p.Return(s)
					delete(held, s)
				}
			default:
				if s, ok := pick(); ok {
					p.Release(s)
					delete(held, s)
				}
			}
			if p.Used() != uint64(len(held)) || p.Spare() != (len(held) < capacity) {
				Fail("the pool lost count")
			}
		}
	})
})

// These use synctest's clock, which needs a plain test.

func TestRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		p, err := subnets.New(netip.MustParsePrefix("10.0.0.0/30"), time.Second)
		g.Expect(err).NotTo(HaveOccurred())
		s, err := p.Lease(t.Context())
		g.Expect(err).NotTo(HaveOccurred())
		p.Release(s)
		g.Expect(p.Spare()).To(BeFalse())

		start := time.Now()
		g.Expect(p.Lease(t.Context())).To(Equal(s))
		g.Expect(time.Since(start)).To(Equal(time.Second))
	})
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		p, err := subnets.New(netip.MustParsePrefix("10.0.0.0/29"), time.Second)
		g.Expect(err).NotTo(HaveOccurred())
		_, waiting := p.Rested()
		g.Expect(waiting).To(BeFalse())
		s, err := p.Lease(t.Context())
		g.Expect(err).NotTo(HaveOccurred())
		p.Release(s)
		time.Sleep(4 * time.Second)

		// Whoever leases it makes it start anew.
		g.Expect(p.Lease(t.Context())).To(Equal(s))
		p.Release(s)
		time.Sleep(4 * time.Second)
		_, ok := p.Reclaim(5 * time.Second)
		g.Expect(ok).To(BeFalse())
		rested, waiting := p.Rested()
		g.Expect(waiting).To(BeTrue())
		g.Expect(rested).To(Equal(4 * time.Second))
		time.Sleep(time.Second)
		got, ok := p.Reclaim(5 * time.Second)
		g.Expect(ok).To(BeTrue())
		g.Expect(got).To(Equal(s))
	})
}

func TestReclaimedIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		p, err := subnets.New(netip.MustParsePrefix("10.0.0.0/30"), time.Second)
		g.Expect(err).NotTo(HaveOccurred())
		s, err := p.Lease(t.Context())
		g.Expect(err).NotTo(HaveOccurred())
		p.Release(s)
		time.Sleep(5 * time.Second)
		_, ok := p.Reclaim(5 * time.Second)
		g.Expect(ok).To(BeTrue())
		time.AfterFunc(40*time.Millisecond, func() { p.Return(s) })

		start := time.Now()
		g.Expect(p.Lease(t.Context())).To(Equal(s))
		g.Expect(time.Since(start)).To(Equal(40 * time.Millisecond)) // it has rested
	})
}

func TestRetiredIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewWithT(t)
		p, err := subnets.New(netip.MustParsePrefix("10.0.0.0/30"), time.Second)
		g.Expect(err).NotTo(HaveOccurred())
		s, err := p.Lease(t.Context())
		g.Expect(err).NotTo(HaveOccurred())
		p.Retire(s)
		g.Expect(p.Used()).To(Equal(uint64(1)))
		time.AfterFunc(5*time.Second, func() { p.Release(s) })

		start := time.Now()
		g.Expect(p.Lease(t.Context())).To(Equal(s))
		g.Expect(time.Since(start)).To(Equal(6 * time.Second))

		p.Retire(s)
		soon, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = p.Lease(soon)
		g.Expect(err).To(MatchError(subnets.ErrExhausted))
	})
}

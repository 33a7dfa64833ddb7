package gardener_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/gardener/gardenertest"
	"github.com/verger-garden/verger/properties"
)

func TestGardener(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Gardener Suite")
}

// sizes of a host.
type sizes struct{}

func (sizes) TotalMemory() (uint64, error) { return 100, nil }
func (sizes) TotalDisk() (uint64, error)   { return 200, nil }
func (sizes) CPUCores() (int, error)       { return 3, nil }

func newHost() *gardenertest.Host { return gardenertest.NewHost(properties.NewMemory()) }

// boot returns a server on the host; it has not been started.
func boot(host *gardenertest.Host) (*gardener.Gardener, *gardenertest.Server) {
	server := host.Boot()
	var ids atomic.Uint64
	uids := gardener.UidGeneratorFunc(func() string { return fmt.Sprintf("generated-%d", ids.Add(1)) })
	log := lager.NewLogger("test")
	log.RegisterSink(lager.NewWriterSink(GinkgoWriter, lager.DEBUG))
	return gardener.New(uids, gardener.NewBulkStarter(nil), sizes{}, server.Networker, server.Volumizer,
		server.Containerizer, server.Properties, gardener.NewRestorer(server.Networker), server.Containerizer,
		log, 0, true), server
}

// listed answers the handles under the filter.
func listed(g *gardener.Gardener, props garden.Properties) []string {
	GinkgoHelper()
	containers, err := g.Containers(props)
	Expect(err).NotTo(HaveOccurred())
	handles := []string{}
	for _, c := range containers {
		handles = append(handles, c.Handle())
	}
	return handles
}

var all = garden.Properties{"garden.state": "all"}

// nothing is left of any container, and nothing happened that never should.
func expectClean(host *gardenertest.Host, g *gardener.Gardener) {
	GinkgoHelper()
	Expect(host.Left()).To(BeEmpty())
	Expect(host.Violations()).To(BeEmpty())
	Expect(listed(g, all)).To(BeEmpty())
}

func notFound(handle string) error { return garden.ContainerNotFoundError{Handle: handle} }

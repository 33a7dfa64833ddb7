package gardener_test

import (
	"math"
	"net/url"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3"
	"code.cloudfoundry.org/lager/v3/lagertest"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/verger-garden/verger/gardener"
)

// recorder remembers what it was asked for.
type recorder struct {
	gardener.NoopVolumizer
	handle string
	spec   gardener.RootfsSpec
}

func (r *recorder) Create(_ lager.Logger, handle string, spec gardener.RootfsSpec) (specs.Spec, error) {
	r.handle, r.spec = handle, spec
	return specs.Spec{Root: &specs.Root{Path: "/rootfs"}}, nil
}

func (r *recorder) Handles() ([]string, error) { return []string{r.handle}, nil }

var _ = Describe("the volume provider", func() {
	var (
		creator *recorder
		volumes *gardener.VolumeProvider
		log     *lagertest.TestLogger
	)

	BeforeEach(func() {
		creator = &recorder{}
		volumes = gardener.NewVolumeProvider(creator, creator, nil, 1, 2)
		log = lagertest.NewTestLogger("volumes")
	})

	parsed := func(uri string) *url.URL {
		u, err := url.Parse(uri)
		Expect(err).NotTo(HaveOccurred())
		return u
	}

	It("knows root's ids", func() {
		Expect(volumes.ContainerRootUID).To(Equal(1))
		Expect(volumes.ContainerRootGID).To(Equal(2))
	})

	DescribeTable("says what a container spec means",
		func(asked garden.ContainerSpec, want gardener.RootfsSpec, uri string) {
			asked.Handle = "h"
			want.RootFS = parsed(uri)
			base, err := volumes.Create(log, asked)
			Expect(err).NotTo(HaveOccurred())
			Expect(base.Root.Path).To(Equal("/rootfs"))
			Expect(creator.handle).To(Equal("h"))
			Expect(creator.spec).To(Equal(want))
		},
		Entry("nothing: the default", garden.ContainerSpec{}, gardener.RootfsSpec{Namespaced: true}, ""),
		Entry("an image", garden.ContainerSpec{Image: garden.ImageRef{URI: "oci:///image:tag"}}, gardener.RootfsSpec{Namespaced: true}, "oci:///image:tag"),
		Entry("the older spelling", garden.ContainerSpec{RootFSPath: "/dir"}, gardener.RootfsSpec{Namespaced: true}, "/dir"),
		Entry("a raw folder", garden.ContainerSpec{RootFSPath: "raw:///dir"}, gardener.RootfsSpec{Namespaced: true}, "raw:///dir"),
		Entry("credentials", garden.ContainerSpec{Image: garden.ImageRef{URI: "docker:///i", Username: "u", Password: "p"}}, gardener.RootfsSpec{Namespaced: true, Username: "u", Password: "p"}, "docker:///i"),
		Entry("privileged", garden.ContainerSpec{Privileged: true}, gardener.RootfsSpec{}, ""),
		Entry("a quota", garden.ContainerSpec{Limits: garden.Limits{Disk: garden.DiskLimits{ByteHard: 7, Scope: garden.DiskLimitScopeExclusive}}}, gardener.RootfsSpec{Namespaced: true, QuotaSize: 7, QuotaScope: garden.DiskLimitScopeExclusive}, ""),
		Entry("a quota beyond all disks", garden.ContainerSpec{Limits: garden.Limits{Disk: garden.DiskLimits{ByteHard: math.MaxUint64}}}, gardener.RootfsSpec{Namespaced: true, QuotaSize: math.MaxInt64}, ""),
	)

	It("refuses both spellings at once", func() {
		_, err := volumes.Create(log, garden.ContainerSpec{RootFSPath: "/a", Image: garden.ImageRef{URI: "/b"}})
		Expect(err).To(MatchError("Cannot provide both Image.URI and RootFSPath"))
	})

	It("names a URI that cannot be parsed", func() {
		_, err := volumes.Create(log, garden.ContainerSpec{RootFSPath: "::bad"})
		Expect(err).To(MatchError(`invalid image URI "::bad": missing protocol scheme`))
	})

	DescribeTable("shows no password of a URI that cannot be parsed",
		func(uri string) {
			_, err := volumes.Create(log, garden.ContainerSpec{Image: garden.ImageRef{URI: uri}})
			Expect(err).To(MatchError(HavePrefix("invalid image URI")))
			Expect(err).NotTo(MatchError(ContainSubstring("secret")))
			Expect(log.Buffer().Contents()).NotTo(ContainSubstring("secret"))
		},
		Entry("bad host", "docker://u:secret@ho st/image"),
		Entry("password cut by a fragment", "docker://u:secret#x@host/image"),
	)

	It("passes on what the manager can tell of volumes", func() {
		creator.handle = "h"
		Expect(volumes.Handles()).To(ConsistOf("h"))
		Expect(gardener.NewVolumeProvider(creator, gardener.NoopVolumizer{}, nil, 0, 0).Handles()).To(BeEmpty())
	})

	When("there is no creator", func() {
		BeforeEach(func() {
			volumes = gardener.NewVolumeProvider(gardener.NoopVolumizer{}, gardener.NoopVolumizer{}, nil, 0, 0)
		})

		It("can use raw folders only", func() {
			base, err := volumes.Create(log, garden.ContainerSpec{RootFSPath: "raw:///dir"})
			Expect(err).NotTo(HaveOccurred())
			Expect(base.Root.Path).To(Equal("/dir"))
			_, err = volumes.Create(log, garden.ContainerSpec{RootFSPath: "/dir"})
			Expect(err).To(Equal(gardener.ErrGraphDisabled))
			Expect(err).To(MatchError("no image plugin configured"))
		})

		It("has nothing to destroy, collect or measure, and no capacity to tell", func() {
			Expect(volumes.Destroy(log, "h")).To(Succeed())
			Expect(volumes.GC(log)).To(Succeed())
			Expect(volumes.Metrics(log, "h", true)).To(BeZero())
			_, err := volumes.Capacity(log)
			Expect(err).To(MatchError(gardener.ErrGraphDisabled))
		})
	})
})

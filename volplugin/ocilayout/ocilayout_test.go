package ocilayout_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/verger-garden/verger/volplugin/ocilayout"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

func TestOCILayout(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "ocilayout")
}

func randomImage(env ...string) v1.Image {
	GinkgoHelper()
	image, err := random.Image(512, 2)
	Expect(err).NotTo(HaveOccurred())
	image, err = mutate.Config(image, v1.Config{Env: env, User: "nobody", WorkingDir: "/x"})
	Expect(err).NotTo(HaveOccurred())
	return image
}

func tagged(tag string) layout.Option {
	return layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})
}

var _ = Describe("a layout", func() {
	var (
		dir  string
		path layout.Path
	)

	BeforeEach(func() {
		dir = GinkgoT().TempDir()
		var err error
		path, err = layout.Write(dir, empty.Index)
		Expect(err).NotTo(HaveOccurred())
	})

	// env finds the image by its environment, which is its name in these tests.
	env := func(tag string) ([]string, error) {
		l := ocilayout.Layout(dir)
		desc, err := l.Find(tag)
		if err != nil {
			return nil, err
		}
		image, err := l.Image(desc)
		return image.Env, err
	}

	It("gives the only image if no tag is asked for", func() {
		Expect(path.AppendImage(randomImage("I=only"), tagged("v1"))).To(Succeed())
		Expect(env("")).To(Equal([]string{"I=only"}))
	})

	It("gives the image with the tag, and latest without", func() {
		Expect(path.AppendImage(randomImage("I=v1"), tagged("v1"))).To(Succeed())
		Expect(path.AppendImage(randomImage("I=latest"), tagged("latest"))).To(Succeed())
		Expect(env("v1")).To(Equal([]string{"I=v1"}))
		Expect(env("")).To(Equal([]string{"I=latest"}))
	})

	It("gives this host's image of several", func() {
		index := mutate.AppendManifests(empty.Index,
			mutate.IndexAddendum{Add: randomImage("I=other"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "mips"}}},
			mutate.IndexAddendum{Add: randomImage("I=windows"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "windows", Architecture: runtime.GOARCH}}},
			mutate.IndexAddendum{Add: randomImage("I=ours"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}},
		)
		Expect(path.AppendIndex(index, tagged("multi"))).To(Succeed())
		Expect(env("multi")).To(Equal([]string{"I=ours"}))

		By("also where the layout's own index is the list")
		dir = GinkgoT().TempDir()
		_, err := layout.Write(dir, index)
		Expect(err).NotTo(HaveOccurred())
		Expect(env("")).To(Equal([]string{"I=ours"}))
	})

	It("tells the layers, the lowest first", func() {
		image := randomImage()
		Expect(path.AppendImage(image)).To(Succeed())
		l := ocilayout.Layout(dir)
		desc, err := l.Find("")
		Expect(err).NotTo(HaveOccurred())
		got, err := l.Image(desc)
		Expect(err).NotTo(HaveOccurred())
		want, err := image.Layers()
		Expect(err).NotTo(HaveOccurred())
		Expect(got.Layers).To(HaveLen(len(want)))
		for i, w := range want {
			diffID, _ := w.DiffID()
			digest, _ := w.Digest()
			Expect(got.Layers[i].DiffID).To(Equal(diffID))
			Expect(got.Layers[i].Digest).To(Equal(digest))
			f, err := l.Open(got.Layers[i])
			Expect(err).NotTo(HaveOccurred())
			Expect(f.Close()).To(Succeed())
		}
	})

	Describe("that is not as it should be", func() {
		blob := func(image v1.Image) string {
			digest, err := image.Digest()
			Expect(err).NotTo(HaveOccurred())
			return filepath.Join(dir, "blobs", "sha256", digest.Hex)
		}
		var image v1.Image

		BeforeEach(func() {
			image = randomImage()
			Expect(path.AppendImage(image, tagged("v1"))).To(Succeed())
		})

		DescribeTable("is an error that says", func(want string, harm func()) {
			harm()
			_, err := env("")
			Expect(err).To(MatchError(ContainSubstring(want)))
		},
			Entry("nothing is there", "no such file", func() { dir += "/gone" }),
			Entry("it is another folder", "no OCI image layout: index.json is missing", func() { dir = GinkgoT().TempDir() }),
			Entry("the index is garbage", "index.json", func() {
				Expect(os.WriteFile(filepath.Join(dir, "index.json"), []byte("{"), 0o600)).To(Succeed())
			}),
			Entry("it is huge", "larger than", func() {
				Expect(os.Truncate(filepath.Join(dir, "index.json"), 5<<20)).To(Succeed())
			}),
			Entry("it holds several images", "several images: name one of v1, v2", func() {
				Expect(path.AppendImage(randomImage(), tagged("v2"))).To(Succeed())
			}),
			Entry("the manifest was changed", "does not match the digest", func() {
				raw, err := os.ReadFile(blob(image))
				Expect(err).NotTo(HaveOccurred())
				Expect(os.WriteFile(blob(image), append(raw, ' '), 0o600)).To(Succeed())
			}),
			Entry("the manifest is missing", "no such file", func() { Expect(os.Remove(blob(image))).To(Succeed()) }),
			Entry("the manifest is a folder", "not a regular file", func() {
				Expect(os.Remove(blob(image))).To(Succeed())
				Expect(os.Mkdir(blob(image), 0o700)).To(Succeed())
			}),
		)

		It("names the tags that there are", func() {
			_, err := env("v3")
			Expect(err).To(MatchError(`no image "v3"; there is v1`))
		})

		It("says that no image is for this host", func() {
			index := mutate.AppendManifests(empty.Index,
				mutate.IndexAddendum{Add: randomImage(), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "mips"}}})
			Expect(path.AppendIndex(index, tagged("mips"))).To(Succeed())
			_, err := env("mips")
			Expect(err).To(MatchError("no image for linux/" + runtime.GOARCH))
		})

		It("opens no blob of another size", func() {
			l := ocilayout.Layout(dir)
			desc, err := l.Find("v1")
			Expect(err).NotTo(HaveOccurred())
			got, err := l.Image(desc)
			Expect(err).NotTo(HaveOccurred())
			got.Layers[0].Size++
			_, err = l.Open(got.Layers[0])
			Expect(err).To(MatchError(ContainSubstring("the manifest says")))
		})
	})
})

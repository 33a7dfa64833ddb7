package properties_test

import (
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/lager/v3/lagertest"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/onsi/gomega/gbytes"

	"github.com/verger-garden/verger/gardener"
	"github.com/verger-garden/verger/properties"
	"github.com/verger-garden/verger/properties/propertiestest"
)

var (
	_ gardener.PropertyManager = (*properties.Manager)(nil)
	_ gardener.PropertySaver   = (*properties.Manager)(nil)
	_ gardener.HandleLister    = (*properties.Manager)(nil)
)

var _ = Describe("properties in memory", func() {
	propertiestest.Behaves(func() propertiestest.Manager { return properties.NewMemory() })
})

var _ = Describe("properties in a folder", func() {
	propertiestest.Behaves(func() propertiestest.Manager {
		return properties.NewManager(GinkgoT().TempDir())
	})

	var (
		dir string
		log *lagertest.TestLogger
		m   *properties.Manager
	)

	reopen := func() *properties.Manager {
		GinkgoHelper()
		again := properties.NewManager(dir)
		Expect(again.Load(log)).To(Succeed())
		return again
	}

	BeforeEach(func() {
		dir = filepath.Join(GinkgoT().TempDir(), "properties")
		log = lagertest.NewTestLogger("properties")
		m = properties.NewManager(dir)
	})

	It("has each change on disk when the call returns", func() {
		m.Set("h", "a", "1")
		Expect(reopen().All("h")).To(Equal(garden.Properties{"a": "1"}))
		Expect(m.SetAll("h", garden.Properties{"b": "2"})).To(Succeed())
		Expect(reopen().All("h")).To(Equal(garden.Properties{"a": "1", "b": "2"}))
		Expect(m.Remove("h", "a")).To(Succeed())
		Expect(reopen().All("h")).To(Equal(garden.Properties{"b": "2"}))
		Expect(m.DestroyKeySpace("h")).To(Succeed())
		Expect(reopen().Handles()).To(BeEmpty())
		Expect(os.ReadDir(dir)).To(BeEmpty())
	})

	It("shows the records to nobody else", func() {
		m.Set("h", "a", "1")
		file, err := os.Stat(filepath.Join(dir, "h.json"))
		Expect(err).NotTo(HaveOccurred())
		Expect(file.Mode().Perm()).To(Equal(os.FileMode(0o600)))
		folder, err := os.Stat(dir)
		Expect(err).NotTo(HaveOccurred())
		Expect(folder.Mode().Perm()).To(Equal(os.FileMode(0o700)))
	})

	It("brings back values that JSON and HTML would escape", func() {
		awkward := garden.Properties{"<&>": "\x00\u2028\"\\\n", "ü": "💥", "": ""}
		Expect(m.SetAll("h", awkward)).To(Succeed())
		Expect(reopen().All("h")).To(Equal(awkward))
	})

	It("refuses values that a record cannot bring back, and changes nothing", func() {
		m.Set("h", "a", "1")
		err := m.SetAll("h", garden.Properties{"secret-name\xff": "1"})
		Expect(err).To(MatchError(ContainSubstring("not valid UTF-8")))
		Expect(err).NotTo(MatchError(ContainSubstring("secret")))
		m.Set("h", "b", "\xff")
		Expect(m.All("h")).To(Equal(garden.Properties{"a": "1"}))
		Expect(m.SetAll("h", garden.Properties{"c": "3"})).To(Succeed())
	})

	DescribeTable("refuses a handle that is no file name",
		func(handle string) {
			Expect(m.SetAll(handle, garden.Properties{"a": "1"})).To(MatchError(ContainSubstring("invalid handle")))
			Expect(m.Handles()).To(BeEmpty())
			Expect(m.DestroyKeySpace(handle)).To(Succeed())
			Expect(dir).NotTo(BeADirectory())
		},
		Entry("empty", ""), Entry("parent", ".."), Entry("path", "a/b"), Entry("climbing", "../h"), Entry("hidden", ".h"),
	)

	It("keeps the longest handles apart", func() {
		long := strings.Repeat("h", 254)
		for _, handle := range []string{long + "a", long + "b", long[:246], long[:247]} {
			m.Set(handle, "length", strconv.Itoa(len(handle)))
			Expect(m.Unsaved(handle)).To(Succeed())
		}
		again := reopen()
		Expect(again.Handles()).To(HaveLen(4))
		value, _ := again.Get(long+"b", "length")
		Expect(value).To(Equal("255"))
		Expect(m.DestroyKeySpace(long + "a")).To(Succeed())
		Expect(reopen().Handles()).To(ConsistOf(long+"b", long[:246], long[:247]))
	})

	When("a record cannot be read", func() {
		BeforeEach(func() {
			m.Set("good", "a", "1")
		})

		DescribeTable("sets it aside, says so by name and goes on",
			func(content string) {
				bad := filepath.Join(dir, "bad.json")
				Expect(os.WriteFile(bad, []byte(content), 0o600)).To(Succeed())
				again := reopen()
				Expect(again.Handles()).To(ConsistOf("good"))
				Expect(log.Buffer()).To(gbytes.Say(`record-set-aside.*bad\.json`))
				Expect(bad).NotTo(BeAnExistingFile())
				Expect(os.ReadFile(bad + ".bad")).To(BeEquivalentTo(content))
				Expect(reopen().Handles()).To(ConsistOf("good"))
			},
			Entry("empty", ""),
			Entry("cut", `{"handle":"bad","properties":{"a":`),
			Entry("no object", `null`),
			Entry("no handle", `{}`),
			Entry("no properties", `{"handle":"bad"}`),
			Entry("of another handle", `{"handle":"good","properties":{}}`),
			Entry("of an invalid handle", `{"handle":"../bad","properties":{}}`),
			Entry("wrong types", `{"handle":"bad","properties":{"a":1}}`),
			Entry("something after it", `{"handle":"bad","properties":{}}{}`),
		)

		It("sets a folder aside, too", func() {
			Expect(os.Mkdir(filepath.Join(dir, "bad.json"), 0o700)).To(Succeed())
			Expect(reopen().Handles()).To(ConsistOf("good"))
			Expect(filepath.Join(dir, "bad.json.bad")).To(BeADirectory())
		})
	})

	It("sweeps up what a kill left of a write", func() {
		m.Set("h", "a", "1")
		Expect(os.WriteFile(filepath.Join(dir, ".tmp-123"), []byte("{"), 0o600)).To(Succeed())
		Expect(reopen().Handles()).To(ConsistOf("h"))
		Expect(filepath.Join(dir, ".tmp-123")).NotTo(BeAnExistingFile())
	})

	It("is an error to load what is no folder", func() {
		Expect(os.WriteFile(dir, nil, 0o600)).To(Succeed())
		Expect(m.Load(log)).To(MatchError(ContainSubstring(dir)))
	})

	When("the record cannot be written", func() {
		var block string

		BeforeEach(func() {
			m.Set("h", "a", "1")
			block = filepath.Join(dir, "h.json")
			Expect(os.Remove(block)).To(Succeed())
			Expect(os.MkdirAll(filepath.Join(block, "full"), 0o700)).To(Succeed())
		})

		It("says so and changes nothing", func() {
			Expect(m.SetAll("h", garden.Properties{"a": "2"})).To(MatchError(ContainSubstring("save properties of h")))
			Expect(m.Remove("h", "a")).NotTo(Succeed())
			Expect(m.All("h")).To(Equal(garden.Properties{"a": "1"}))
		})

		It("keeps what was set, remembers why, and saves it with the next change", func() {
			m.Set("h", "b", "2")
			Expect(m.All("h")).To(Equal(garden.Properties{"a": "1", "b": "2"}))
			Expect(m.Unsaved("h")).NotTo(Succeed())
			Expect(os.RemoveAll(block)).To(Succeed())
			m.Set("h", "c", "3")
			Expect(m.Unsaved("h")).To(Succeed())
			Expect(reopen().All("h")).To(Equal(garden.Properties{"a": "1", "b": "2", "c": "3"}))
		})

		It("cannot forget it either, and goes on knowing it", func() {
			Expect(m.DestroyKeySpace("h")).To(MatchError(ContainSubstring("forget properties of h")))
			Expect(m.Handles()).To(ConsistOf("h"))
			Expect(os.RemoveAll(block)).To(Succeed())
			Expect(m.DestroyKeySpace("h")).To(Succeed())
			Expect(m.Handles()).To(BeEmpty())
		})

		It("forgets a new handle whose first properties were refused", func() {
			Expect(os.MkdirAll(filepath.Join(dir, "new.json", "full"), 0o700)).To(Succeed())
			Expect(m.SetAll("new", garden.Properties{"a": "1"})).NotTo(Succeed())
			Expect(m.Handles()).To(ConsistOf("h"))
		})
	})

	It("has on disk what it has in memory, after a handle was changed and forgotten at once", func() {
		for range 100 {
			m.Set("h", "a", "0")
			var all sync.WaitGroup
			for range 4 {
				all.Go(func() { m.Set("h", "a", "1") })
			}
			all.Go(func() {
				defer GinkgoRecover()
				Expect(m.DestroyKeySpace("h")).To(Succeed())
			})
			all.Wait()
			want, err := m.All("h")
			Expect(err).NotTo(HaveOccurred())
			Expect(reopen().All("h")).To(Equal(want))
		}
	})

	It("agrees with a map after any changes, and so does the folder", func() {
		var workers sync.WaitGroup
		for w := range 4 {
			workers.Go(func() {
				defer GinkgoRecover()
				random := rand.New(rand.NewPCG(uint64(GinkgoRandomSeed()), uint64(w)))
				handle, model := "h"+strconv.Itoa(w), garden.Properties{}
				known := false
				for range 500 {
					name, value := strconv.Itoa(random.IntN(5)), strconv.Itoa(random.IntN(100))
					switch random.IntN(8) {
					case 0:
						Expect(m.DestroyKeySpace(handle)).To(Succeed())
						clear(model)
						known = false
					case 1, 2:
						Expect(m.Remove(handle, name)).To(Succeed())
						delete(model, name)
					case 3:
						Expect(m.SetAll(handle, garden.Properties{name: value, "x": "y"})).To(Succeed())
						maps.Copy(model, garden.Properties{name: value, "x": "y"})
						known = true
					default:
						m.Set(handle, name, value)
						model[name] = value
						known = true
					}
					Expect(m.All(handle)).To(Equal(model))
					handles, err := m.Handles()
					Expect(err).NotTo(HaveOccurred())
					Expect(slices.Contains(handles, handle)).To(Equal(known))
				}
			})
		}
		workers.Wait()
		again := reopen()
		handles, err := m.Handles()
		Expect(err).NotTo(HaveOccurred())
		Expect(again.Handles()).To(Equal(handles))
		for _, handle := range handles {
			want, _ := m.All(handle)
			Expect(again.All(handle)).To(Equal(want))
		}
	})
})

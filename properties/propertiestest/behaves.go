// Package propertiestest is the suite that every keeper of properties passes.
package propertiestest

//lint:file-ignore ST1001 it reads like the suites that use it

import (
	"fmt"
	"sync"

	"code.cloudfoundry.org/garden"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// A Manager is what the suite tests.
type Manager interface {
	All(handle string) (garden.Properties, error)
	Set(handle, name, value string)
	SetAll(handle string, props garden.Properties) error
	Remove(handle, name string) error
	Get(handle, name string) (string, bool)
	MatchesAll(handle string, props garden.Properties) bool
	DestroyKeySpace(handle string) error
	Handles() ([]string, error)
}

// Behaves adds the specs; make answers a Manager that knows no handle.
func Behaves(make func() Manager) {
	var m Manager

	BeforeEach(func() { m = make() })

	It("gives back what was set", func() {
		m.Set("h", "name", "value")
		value, ok := m.Get("h", "name")
		Expect(value).To(Equal("value"))
		Expect(ok).To(BeTrue())
	})

	It("knows what was not set", func() {
		m.Set("h", "name", "value")
		_, ok := m.Get("h", "other")
		Expect(ok).To(BeFalse())
		_, ok = m.Get("other", "name")
		Expect(ok).To(BeFalse())
	})

	It("tells an empty value from none", func() {
		m.Set("h", "name", "")
		value, ok := m.Get("h", "name")
		Expect(value).To(BeEmpty())
		Expect(ok).To(BeTrue())
	})

	It("merges", func() {
		m.Set("h", "a", "1")
		m.Set("h", "b", "2")
		Expect(m.SetAll("h", garden.Properties{"b": "3", "c": "4"})).To(Succeed())
		Expect(m.All("h")).To(Equal(garden.Properties{"a": "1", "b": "3", "c": "4"}))
	})

	It("knows a handle that was given no properties", func() {
		Expect(m.SetAll("h", nil)).To(Succeed())
		Expect(m.Handles()).To(ConsistOf("h"))
		Expect(m.All("h")).To(BeEmpty())
	})

	It("answers an empty map for an unknown handle, and does not get to know it", func() {
		props, err := m.All("h")
		Expect(err).NotTo(HaveOccurred())
		Expect(props).NotTo(BeNil())
		Expect(props).To(BeEmpty())
		Expect(m.Remove("h", "name")).To(Succeed())
		Expect(m.DestroyKeySpace("h")).To(Succeed())
		Expect(m.Handles()).To(BeEmpty())
	})

	It("hands out copies and keeps copies", func() {
		given := garden.Properties{"a": "1"}
		Expect(m.SetAll("h", given)).To(Succeed())
		given["a"] = "changed"
		taken, err := m.All("h")
		Expect(err).NotTo(HaveOccurred())
		taken["a"] = "changed"
		Expect(m.All("h")).To(Equal(garden.Properties{"a": "1"}))
	})

	It("removes one property, whether or not it exists", func() {
		m.Set("h", "a", "1")
		m.Set("h", "b", "2")
		Expect(m.Remove("h", "a")).To(Succeed())
		Expect(m.Remove("h", "a")).To(Succeed())
		Expect(m.All("h")).To(Equal(garden.Properties{"b": "2"}))
	})

	It("keeps a handle whose last property was removed", func() {
		m.Set("h", "a", "1")
		Expect(m.Remove("h", "a")).To(Succeed())
		Expect(m.Handles()).To(ConsistOf("h"))
	})

	It("forgets one handle only, and may get to know it again", func() {
		m.Set("h", "a", "1")
		m.Set("other", "a", "1")
		Expect(m.DestroyKeySpace("h")).To(Succeed())
		Expect(m.Handles()).To(ConsistOf("other"))
		_, ok := m.Get("h", "a")
		Expect(ok).To(BeFalse())
		m.Set("h", "b", "2")
		Expect(m.All("h")).To(Equal(garden.Properties{"b": "2"}))
	})

	DescribeTable("matching",
		func(wanted garden.Properties, matches bool) {
			Expect(m.SetAll("h", garden.Properties{"a": "1", "b": "2", "empty": ""})).To(Succeed())
			Expect(m.MatchesAll("h", wanted)).To(Equal(matches))
		},
		Entry("nothing wanted", nil, true),
		Entry("one of them", garden.Properties{"a": "1"}, true),
		Entry("several of them", garden.Properties{"a": "1", "b": "2"}, true),
		Entry("one with another value", garden.Properties{"a": "1", "b": "3"}, false),
		Entry("one too many", garden.Properties{"a": "1", "c": "3"}, false),
		Entry("a missing one as empty", garden.Properties{"c": ""}, true),
		Entry("an empty one", garden.Properties{"empty": ""}, true),
	)

	It("loses no change of many at once", func() {
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				defer GinkgoRecover()
				for j := range 20 {
					m.Set("shared", fmt.Sprintf("%d-%d", i, j), "x")
					Expect(m.SetAll(fmt.Sprint(i), garden.Properties{fmt.Sprint(j): "x"})).To(Succeed())
				}
			})
		}
		all.Wait()
		Expect(m.All("shared")).To(HaveLen(160))
		Expect(m.Handles()).To(HaveLen(9))
		Expect(m.All("0")).To(HaveLen(20))
	})

	It("ends known with its last change, or unknown, when changed and forgotten at once", func() {
		for range 200 {
			var all sync.WaitGroup
			all.Go(func() { m.Set("h", "a", "1") })
			all.Go(func() { _ = m.DestroyKeySpace("h") }) // checked by what is left
			all.Wait()
			if _, ok := m.Get("h", "a"); ok {
				Expect(m.Handles()).To(ConsistOf("h"))
			} else {
				Expect(m.Handles()).To(BeEmpty())
			}
		}
	})
}

package gardener

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("who waits for a container", func() {
	It("does not get another one that took its handle meanwhile", func() {
		for range 100 {
			var h handles
			first, err := h.claim("h", 1)
			Expect(err).NotTo(HaveOccurred())
			waited := make(chan bool)
			go func() { waited <- h.seize(first) }()
			h.drop(first)
			second, err := h.claim("h", 1)
			Expect(err).NotTo(HaveOccurred())
			h.release(second)
			Expect(<-waited).To(BeFalse())
			Expect(h.seize(first)).To(BeFalse())
			Expect(h.seize(second)).To(BeTrue())
		}
	})
})

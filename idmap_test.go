package verger

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("id maps of containers", func() {
	const whole = 4294967294 // the highest id outside user namespaces

	type ids struct{ container, host, size uint32 }
	DescribeTable("give root the highest id and the others a range",
		func(highest, start, length uint32, expected ...ids) {
			got, err := idMappings(highest, start, length)
			Expect(err).NotTo(HaveOccurred())
			var shown []ids
			for _, m := range got {
				shown = append(shown, ids{m.ContainerID, m.HostID, m.Size})
			}
			Expect(shown).To(Equal(expected))
		},
		Entry("on a whole host", uint32(whole), uint32(0), uint32(0), ids{0, whole, 1}, ids{1, 1, whole - 1}),
		Entry("from a certain id on", uint32(whole), uint32(100000), uint32(65536), ids{0, whole, 1}, ids{1, 100000, 65536}),
		Entry("up to the last", uint32(whole), uint32(whole-4), uint32(4), ids{0, whole, 1}, ids{1, whole - 4, 4}),
		Entry("in a nested user namespace", uint32(65536), uint32(0), uint32(0), ids{0, 65536, 1}, ids{1, 1, 65535}),
	)

	DescribeTable("are refused if they reach root's id or beyond",
		func(start, length uint32, expected string) {
			Expect(idMappings(whole, start, length)).Error().To(MatchError(expected))
		},
		Entry("start", uint32(whole), uint32(0), "from 4294967294: ids of this host end at 4294967294"),
		Entry("length", uint32(whole-4), uint32(5), "of 5 ids from 4294967290: there are only 4 below 4294967294"),
	)
})

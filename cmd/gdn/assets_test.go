package main

import (
	"os"
	"path/filepath"
	"syscall"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("assets", func() {
	var path string
	BeforeEach(func() { path = filepath.Join(GinkgoT().TempDir(), "asset") })

	inode := func() uint64 {
		GinkgoHelper()
		info, err := os.Stat(path)
		Expect(err).NotTo(HaveOccurred())
		return info.Sys().(*syscall.Stat_t).Ino
	}

	It("are written with their mode", func() {
		Expect(install(path, []byte("one"), 0o755)).To(Succeed())
		Expect(os.ReadFile(path)).To(Equal([]byte("one")))
		info, err := os.Stat(path)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode()).To(Equal(os.FileMode(0o755)))
	})

	It("stay if they are the same", func() {
		Expect(install(path, []byte("one"), 0o755)).To(Succeed())
		before := inode()
		Expect(install(path, []byte("one"), 0o755)).To(Succeed())
		Expect(inode()).To(Equal(before))
	})

	DescribeTable("are replaced, not overwritten, if they differ",
		func(content string, mode os.FileMode) {
			Expect(install(path, []byte(content), mode)).To(Succeed())
			before := inode()
			Expect(install(path, []byte("two"), 0o755)).To(Succeed())
			Expect(os.ReadFile(path)).To(Equal([]byte("two")))
			Expect(inode()).NotTo(Equal(before))
		},
		Entry("in content", "one", os.FileMode(0o755)),
		Entry("in length", "twofold", os.FileMode(0o755)),
		Entry("in mode", "two", os.FileMode(0o777)),
	)
})

package sysinfo

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("the host's sizes", func() {
	It("has the memory that /proc/meminfo tells", func() {
		meminfo, err := os.ReadFile("/proc/meminfo")
		Expect(err).NotTo(HaveOccurred())
		kib, err := strconv.ParseUint(regexp.MustCompile(`MemTotal:\s+(\d+) kB`).FindStringSubmatch(string(meminfo))[1], 10, 64)
		Expect(err).NotTo(HaveOccurred())
		Expect(NewProvider("/").TotalMemory()).To(Equal(kib * 1024))
	})

	It("has the disk that df tells for the depot", func() {
		dir := GinkgoT().TempDir()
		df, err := exec.Command("df", "--block-size=1", "--output=size", dir).Output()
		Expect(err).NotTo(HaveOccurred())
		size, err := strconv.ParseUint(strings.Fields(string(df))[1], 10, 64)
		Expect(err).NotTo(HaveOccurred())
		Expect(NewProvider(dir).TotalDisk()).To(Equal(size))
	})

	It("names the depot that is not there", func() {
		_, err := NewProvider("/no/such/depot").TotalDisk()
		Expect(err).To(MatchError(os.ErrNotExist))
		Expect(err).To(MatchError(ContainSubstring("/no/such/depot")))
	})

	It("has at least the processors that this process may use", func() {
		Expect(NewProvider("/").CPUCores()).To(BeNumerically(">=", runtime.NumCPU()))
	})
})

var _ = DescribeTable("counting processors",
	func(list string, count int) {
		Expect(countCPUs(list)).To(Equal(count))
	},
	Entry("one", "0\n", 1),
	Entry("a range", "0-3\n", 4),
	Entry("ranges and single ones", "0-1,4,8-11\n", 7),
)

var _ = DescribeTable("refusing a list of processors",
	func(list string) {
		_, err := countCPUs(list)
		Expect(err).To(HaveOccurred())
	},
	Entry("empty", ""), Entry("words", "all"), Entry("backwards", "3-1"), Entry("open", "3-"), Entry("negative", "-3"), Entry("huge", "0-99999999"),
)

var _ = Describe("the highest ids", func() {
	It("are those of the maps of this process", func() {
		for path, highest := range map[string]func() (uint32, error){"/proc/self/uid_map": MaxUID, "/proc/self/gid_map": MaxGID} {
			lines, err := os.ReadFile(path)
			Expect(err).NotTo(HaveOccurred())
			want, err := highestID(strings.NewReader(string(lines)))
			Expect(err).NotTo(HaveOccurred())
			Expect(highest()).To(Equal(want))
		}
	})

	It("may differ between users and groups", func() {
		if os.Geteuid() != 0 {
			Skip("needs root to write id maps")
		}
		self, err := os.Executable()
		Expect(err).NotTo(HaveOccurred())
		cmd := exec.Command(self, "-test.run=^TestPrintIDs$")
		cmd.Env = append(os.Environ(), "PRINT_IDS=1")
		cmd.SysProcAttr = mapped(1000, 70)
		out, err := cmd.Output()
		Expect(err).NotTo(HaveOccurred())
		Expect(string(out)).To(HavePrefix("999 69\n"))
	})

	DescribeTable("in a map",
		func(lines string, want uint32) {
			Expect(highestID(strings.NewReader(lines))).To(Equal(want))
		},
		Entry("of the first namespace", "         0          0 4294967295\n", uint32(math.MaxUint32-1)),
		Entry("of one id", "0 1000 1\n", uint32(0)),
		Entry("of several ranges", "0 4294967294 1\n1 65536 4294901758\n", uint32(4294901758)),
		Entry("that is not in order", "100 0 10\n0 10 5\n", uint32(109)),
	)

	DescribeTable("not in a map",
		func(lines string) {
			_, err := highestID(strings.NewReader(lines))
			Expect(err).To(HaveOccurred())
		},
		Entry("that is empty", ""),
		Entry("with words", "a b c\n"),
		Entry("cut short", "0 1000\n"),
		Entry("with an empty range", "0 0 0\n"),
		Entry("beyond 32 bits", "4294967295 0 2\n"),
	)
})

// TestPrintIDs is the child of a spec above.
func TestPrintIDs(t *testing.T) {
	if os.Getenv("PRINT_IDS") == "" {
		t.Skip("only as a child")
	}
	uid, err := MaxUID()
	if err != nil {
		t.Fatal(err)
	}
	gid, err := MaxGID()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println(uid, gid)
	os.Exit(0)
}

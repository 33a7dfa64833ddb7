package users_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/verger-garden/verger/internal/rootfs"
	"github.com/verger-garden/verger/rundmc/users"
)

func TestUsers(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "rundmc/users")
}

const (
	passwd = `# who lives here
root:x:0:0:root:/root:/bin/sh
alice:x:1000:1001:Alice,,,:/home/alice:/bin/sh

bob:x:1002:1002::/:/bin/sh
alice:x:7:7:a second alice:/second:/bin/sh
1000:x:55:55:a number for a name:/number:/bin/sh
homeless:x:1003:1003:::
#eve:x:6:6::/:
high:x:4294967294:4294967294::/high:
short:x:1004:1004
overflown:x:4294967296:0::/:
top:x:4294967295:0::/:
lettered:x:root:0::/:
nogid:x:2005::/:
`
	group = `root:x:0:root
adm:x:4:root,alice
staff:x:50:alice
alicia:x:51:alicia
bobs:x:1002:
bad:x:4294967296:homeless
`
)

func image(files map[string]string) string {
	GinkgoHelper()
	return imageAt(GinkgoT().TempDir(), files)
}

func imageAt(root string, files map[string]string) string {
	for name, content := range files {
		path := filepath.Join(root, name)
		Expect(os.MkdirAll(filepath.Dir(path), 0o755)).To(Succeed())
		Expect(os.WriteFile(path, []byte(content), 0o644)).To(Succeed())
	}
	return root
}

var full = map[string]string{"etc/passwd": passwd, "etc/group": group}

var _ = Describe("a user", func() {
	DescribeTable("is found by",
		func(spec string, want users.User) {
			Expect(users.Lookup(image(full), spec)).To(Equal(want))
		},
		Entry("nothing: root", "", users.User{Groups: []uint32{0, 4}, Home: "/root", Name: "root"}),
		Entry("name", "root", users.User{Groups: []uint32{0, 4}, Home: "/root", Name: "root"}),
		Entry("name, the first of two, with the groups that list it", "alice", users.User{UID: 1000, GID: 1001, Groups: []uint32{4, 50}, Home: "/home/alice", Name: "alice"}),
		Entry("uid", "1002", users.User{UID: 1002, GID: 1002, Home: "/", Name: "bob"}),
		Entry("uid, though somebody has that number for a name", "1000", users.User{UID: 1000, GID: 1001, Groups: []uint32{4, 50}, Home: "/home/alice", Name: "alice"}),
		Entry("uid that has no entry", "4242", users.User{UID: 4242, Home: "/"}),
		Entry("uid with leading zeros", "001002", users.User{UID: 1002, GID: 1002, Home: "/", Name: "bob"}),
		Entry("the highest uid", "4294967294", users.User{UID: 4294967294, GID: 4294967294, Home: "/high", Name: "high"}),
		Entry("name:group", "alice:bobs", users.User{UID: 1000, GID: 1002, Home: "/home/alice", Name: "alice"}),
		Entry("name:gid", "alice:77", users.User{UID: 1000, GID: 77, Home: "/home/alice", Name: "alice"}),
		Entry("uid:gid", "1:2", users.User{UID: 1, GID: 2, Home: "/"}),
		Entry("uid:group", "9:staff", users.User{UID: 9, GID: 50, Home: "/"}),
		Entry(":group, which is root's", ":staff", users.User{UID: 0, GID: 50, Home: "/root", Name: "root"}),
		Entry("name: without a group", "bob:", users.User{UID: 1002, GID: 1002, Home: "/", Name: "bob"}),
		Entry("name whose entry has no home", "homeless:5", users.User{UID: 1003, GID: 5, Home: "/", Name: "homeless"}),
		Entry("name whose entry is cut short", "short", users.User{UID: 1004, GID: 1004, Home: "/", Name: "short"}),
	)

	DescribeTable("is refused with a reason:",
		func(spec, message string) {
			_, err := users.Lookup(image(full), spec)
			Expect(err).To(MatchError(message))
		},
		Entry("unknown name", "carol", "unable to find user carol: not in the container's /etc/passwd"),
		Entry("somebody commented out", "#eve", "unable to find user #eve: not in the container's /etc/passwd"),
		Entry("unknown group", "alice:carols", "unable to find group carols: not in the container's /etc/group"),
		Entry("2^32-1", "4294967295", "unable to find user 4294967295: ids run from 0 to 4294967294"),
		Entry("2^32, which must not wrap to root", "4294967296", "unable to find user 4294967296: ids run from 0 to 4294967294"),
		Entry("gid 2^32", "alice:4294967296", "unable to find group 4294967296: ids run from 0 to 4294967294"),
		Entry("a negative uid, which is a name", "-1", "unable to find user -1: not in the container's /etc/passwd"),
		Entry("an entry with uid 2^32", "overflown", `unable to find user overflown: uid "4294967296" in /etc/passwd is not an id`),
		Entry("an entry with uid 2^32-1", "top", `unable to find user top: uid "4294967295" in /etc/passwd is not an id`),
		Entry("an entry without a number, which must not become root", "lettered", `unable to find user lettered: uid "root" in /etc/passwd is not an id`),
		Entry("an entry without gid", "nogid", `unable to find user nogid: gid "" in /etc/passwd is not an id`),
		Entry("a group of theirs that is no id", "homeless", `unable to find the groups of user homeless: gid "4294967296" in /etc/group is not an id`),
	)

	When("the container has no /etc/passwd", func() {
		DescribeTable("is still",
			func(spec string, want users.User) {
				Expect(users.Lookup(image(nil), spec)).To(Equal(want))
			},
			Entry("root by default", "", users.User{Home: "/"}),
			Entry("root by name", "root", users.User{Home: "/", Name: "root"}),
			Entry("any number", "33:44", users.User{UID: 33, GID: 44, Home: "/"}),
		)
		It("is nobody else by name", func() {
			_, err := users.Lookup(image(nil), "alice")
			Expect(err).To(MatchError(HavePrefix("unable to find user alice")))
		})
	})

	It("is not root by name when /etc/passwd is there without root", func() {
		_, err := users.Lookup(image(map[string]string{"etc/passwd": ""}), "root")
		Expect(err).To(MatchError(HavePrefix("unable to find user root")))
	})

	It("has no more groups than a missing /etc/group lists", func() {
		Expect(users.Lookup(image(map[string]string{"etc/passwd": passwd}), "alice")).To(
			Equal(users.User{UID: 1000, GID: 1001, Home: "/home/alice", Name: "alice"}))
	})

	It("may be found through the container's own links", func() {
		root := image(map[string]string{"usr/lib/passwd": passwd})
		Expect(os.Mkdir(filepath.Join(root, "etc"), 0o755)).To(Succeed())
		Expect(os.Symlink("/usr/lib/passwd", filepath.Join(root, "etc/passwd"))).To(Succeed())
		Expect(users.Lookup(root, "bob")).To(HaveField("UID", BeEquivalentTo(1002)))
	})

	It("is not looked up in files that are too large", func() {
		root := image(map[string]string{"etc/passwd": strings.Repeat("#", rootfs.MaxFile+1)})
		_, err := users.Lookup(root, "root")
		Expect(err).To(MatchError(rootfs.ErrTooLarge))
		Expect(err).To(MatchError(HavePrefix("unable to find user root: read /etc/passwd")))
	})

	It("is not looked up without a root", func() {
		_, err := users.Lookup("/no/such/root", "")
		Expect(err).To(MatchError(os.ErrNotExist))
	})
})

var _ = Describe("a user of a user namespace", func() {
	to1005 := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 4294967294, Size: 1}, {ContainerID: 1, HostID: 1, Size: 1005}}

	DescribeTable("has ids that are mapped",
		func(spec string, uids, gids []specs.LinuxIDMapping, message string) {
			_, err := users.LookupMapped(image(full), spec, uids, gids)
			if message == "" {
				Expect(err).NotTo(HaveOccurred())
			} else {
				Expect(err).To(MatchError(message))
			}
		},
		Entry("within the maps", "alice", to1005, to1005, ""),
		Entry("the last of a map", "1005", to1005, to1005, ""),
		Entry("uid one past the map", "1006", to1005, to1005, `user "1006": uid 1006 is outside the container's id map`),
		Entry("gid outside", "1:1006", to1005, to1005, `user "1:1006": gid 1006 is outside the container's id map`),
		Entry("a supplementary group outside", "alice", to1005, []specs.LinuxIDMapping{{ContainerID: 1000, Size: 5}}, `user "alice": gid 4 is outside the container's id map`),
		Entry("no maps, no limit", "4294967294", nil, nil, ""),
		Entry("unknown user", "carol", to1005, to1005, "unable to find user carol: not in the container's /etc/passwd"),
	)
})

package oci_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sys/unix"

	"github.com/verger-garden/verger/internal/testhost"
	"github.com/verger-garden/verger/rundmc/oci"
)

// script makes a runtime of body, in which $sub is the subcommand, $id its
// last argument, $root, $log and $pidfile what the options say. It notes the
// subcommands it was called with in the file calls.
func script(dir, body string) string {
	GinkgoHelper()
	path := filepath.Join(dir, "runtime")
	Expect(os.WriteFile(path, []byte(`#!/bin/sh
all="$*"
while [ $# -gt 0 ]; do
	case "$1" in
	--root) root=$2; shift ;;
	--log) log=$2; shift ;;
	--pid-file) pidfile=$2; shift ;;
	--bundle|--log-format|--preserve-fds) shift ;;
	run|delete) sub=$1 ;;
	--force) sub="$sub --force" ;;
	esac
	id=$1
	shift
done
echo "$sub $id" >> "`+dir+`/calls"
`+body), 0o755)).To(Succeed())
	return path
}

var _ = Describe("a runtime", func() {
	var (
		dir, bundle string
		r           oci.Runtime
		ctx         context.Context
	)

	BeforeEach(func() {
		dir = GinkgoT().TempDir()
		bundle = filepath.Join(dir, "bundle")
		r = oci.Runtime{Root: filepath.Join(dir, "root")}
		Expect(os.Mkdir(bundle, 0o700)).To(Succeed())
		Expect(os.Mkdir(r.Root, 0o700)).To(Succeed())
		ctx = context.Background()
	})

	calls := func() []string {
		raw, _ := os.ReadFile(filepath.Join(dir, "calls")) // none yet
		return strings.Split(strings.TrimSpace(string(raw)), "\n")
	}
	listener := func() *os.File {
		GinkgoHelper()
		f, err := os.CreateTemp(dir, "listener")
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { _ = f.Close() })
		return f
	}

	DescribeTable("is checked by what it says of itself",
		func(body string, match OmegaMatcher) {
			r.Path = filepath.Join(dir, "runtime")
			if body != "" {
				Expect(os.WriteFile(r.Path, []byte(body), 0o755)).To(Succeed())
			}
			err := r.Check(ctx)
			Expect(err).To(match)
			if err != nil {
				Expect(err).To(MatchError(And(ContainSubstring(r.Path), ContainSubstring("--runtime-plugin"))))
			}
		},
		Entry("runc's way", "#!/bin/sh\n[ \"$*\" = --version ] && echo runc version 9; echo spec: 1.2.0\n", BeNil()),
		Entry("missing", "", MatchError(os.ErrNotExist)),
		Entry("no program", "hello", MatchError(unix.ENOEXEC)),
		Entry("another program", "#!/bin/sh\necho; echo hello 1.0; echo world\n", MatchError(ContainSubstring(`--version says "hello 1.0"`))),
		Entry("silent", "#!/bin/sh\n", MatchError(ContainSubstring(`--version says ""`))),
		Entry("failing", "#!/bin/sh\necho spec: 1\nexit 3\n", MatchError(ContainSubstring("exit status 3"))),
	)

	for name, path := range testhost.Runtimes() {
		It("is "+name, func() {
			testhost.Need(GinkgoT(), path)
			Expect(oci.Runtime{Path: path}.Check(ctx)).To(Succeed())
		})
	}

	It("is given up when it hangs at its check", func() {
		r.Path = filepath.Join(dir, "runtime")
		Expect(os.WriteFile(r.Path, []byte("#!/bin/sh\nexec sleep 100\n"), 0o755)).To(Succeed())
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		DeferCleanup(cancel)
		Expect(r.Check(short)).To(MatchError(ContainSubstring("killed")))
	})

	Describe("running", func() {
		It("gets bundle, id, listener and log, and its pid is returned", func() {
			r.ExtraArgs = []string{"--extra"}
			r.Path = script(dir, `echo "$all" > "`+dir+`/args"
readlink /proc/$$/fd/3 > "`+dir+`/fd3"
echo 4321 > "$pidfile"`)
			l := listener()
			Expect(r.Run(ctx, bundle, "box", l)).To(Equal(4321))
			for name, want := range map[string]string{
				"args": fmt.Sprintf("--root %s --log %s/run.log --log-format json --extra run --detach --no-new-keyring --preserve-fds 1 --bundle %s --pid-file %s/pidfile box", r.Root, bundle, bundle, bundle),
				"fd3":  l.Name(),
			} {
				raw, err := os.ReadFile(filepath.Join(dir, name))
				Expect(err).NotTo(HaveOccurred())
				Expect(strings.TrimSpace(string(raw))).To(Equal(want), name)
			}
		})

		DescribeTable("fails",
			func(body, want string) {
				r.Path = script(dir, body)
				_, err := r.Run(ctx, bundle, "box", listener())
				Expect(err).To(MatchError(want))
			},
			Entry("without a word", "exit 2", "runtime run: exit status 2"),
			Entry("saying why", `echo '{"level":"error","msg":"no such rootfs"}' > "$log"; exit 1`, "runtime run: exit status 1: no such rootfs"),
			Entry("saying why among other things",
				`printf '%s\n' '{"level":"warning","msg":"w"}' '{"level":"error","msg":"first"}' '{"level":"fatal","msg":"last"}' '{"level":"info","msg":"bye"}' > "$log"; exit 1`,
				"runtime run: exit status 1: last"),
			Entry("with nothing but a warning", `echo '{"level":"warning","msg":"w"}' > "$log"; exit 1`, "runtime run: exit status 1: w"),
			Entry("in plain words", `echo oops > "$log"; exit 1`, "runtime run: exit status 1: oops"),
			Entry("by a signal", `kill -9 $$`, "runtime run: signal: killed"),
			Entry("leaving a pid that is none", `echo x > "$pidfile"`, "runtime left pid \"x\\n\""),
			Entry("leaving the host's first process", `echo 1 > "$pidfile"`, "runtime left pid \"1\\n\""),
			Entry("leaving an empty pidfile", `: > "$pidfile"`, "runtime left pid \"\""),
		)

		It("fails when it leaves no pid", func() {
			r.Path = script(dir, "")
			_, err := r.Run(ctx, bundle, "box", listener())
			Expect(err).To(MatchError(os.ErrNotExist))
			Expect(err).To(MatchError(HavePrefix("runtime left no pid: ")))
		})

		It("is killed when it takes too long", func() {
			r.Path = script(dir, "exec sleep 100")
			short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
			DeferCleanup(cancel)
			_, err := r.Run(short, bundle, "box", listener())
			Expect(err).To(MatchError(context.DeadlineExceeded))
			Expect(err).To(MatchError(ContainSubstring("runtime run: ")))
		})
	})

	Describe("deleting", func() {
		state := func(files ...string) string {
			GinkgoHelper()
			at := filepath.Join(r.Root, "box")
			Expect(os.MkdirAll(at, 0o700)).To(Succeed())
			for _, name := range files {
				Expect(os.WriteFile(filepath.Join(at, name), []byte("{}"), 0o600)).To(Succeed())
			}
			return at
		}

		DescribeTable("does without the program where the state is known",
			func(files ...string) {
				r.Path = "/no/such/runtime"
				at := state(files...)
				other := filepath.Join(r.Root, "other")
				Expect(os.Mkdir(other, 0o700)).To(Succeed())
				Expect(r.Delete(ctx, bundle, "box")).To(Succeed())
				Expect(at).NotTo(BeAnExistingFile())
				Expect(other).To(BeADirectory())
				Expect(r.Delete(ctx, bundle, "box")).To(Succeed())
			},
			Entry("of runc", "state.json"),
			Entry("of crun", "status", "config.json", "seccomp.bpf"),
			Entry("of crun without a filter", "status", "config.json"),
			Entry("half removed by a kill", "config.json"),
			Entry("of a create that was killed at once"),
		)

		DescribeTable("leaves to the program what is not known",
			func(prepare func(at string)) {
				r.Path = script(dir, `rm -r "$root/$id"`)
				at := state()
				prepare(at)
				Expect(r.Delete(ctx, bundle, "box")).To(Succeed())
				Expect(calls()).To(Equal([]string{"delete box"}))
				Expect(at).NotTo(BeAnExistingFile())
			},
			Entry("one more file", func(at string) {
				state("state.json", "hooks.json")
			}),
			Entry("files of two runtimes", func(at string) { state("state.json", "status") }),
			Entry("a temporary file of runc", func(at string) { state("state-123") }),
			Entry("a pipe", func(at string) { Expect(unix.Mkfifo(filepath.Join(at, "exec.fifo"), 0o600)).To(Succeed()) }),
			Entry("a link", func(at string) { Expect(os.Symlink("/etc/passwd", filepath.Join(at, "state.json"))).To(Succeed()) }),
			Entry("a folder", func(at string) { Expect(os.Mkdir(filepath.Join(at, "state.json"), 0o700)).To(Succeed()) }),
		)

		It("leaves everything to a program that has options of its own", func() {
			r.ExtraArgs = []string{"--systemd"}
			r.Path = script(dir, `rm -r "$root/$id"`)
			state("state.json")
			Expect(r.Delete(ctx, bundle, "box")).To(Succeed())
			Expect(calls()).To(Equal([]string{"delete box"}))
		})

		It("uses force only where the program refuses", func() {
			r.Path = script(dir, `[ "$sub" = "delete --force" ] && rm -r "$root/$id"`)
			at := state("what")
			Expect(r.Delete(ctx, bundle, "box")).To(Succeed())
			Expect(calls()).To(Equal([]string{"delete box", "delete --force box"}))
			Expect(at).NotTo(BeAnExistingFile())
		})

		It("says why it could not, and can be tried again", func() {
			r.Path = script(dir, `echo '{"level":"error","msg":"busy"}' > "$log"; exit 1`)
			at := state("what")
			Expect(r.Delete(ctx, bundle, "box")).To(MatchError("runtime delete: exit status 1: busy"))
			Expect(at).To(BeADirectory())
			r.Path = script(dir, `rm -r "$root/$id"`)
			Expect(r.Delete(ctx, bundle, "box")).To(Succeed())
		})

		for name, path := range testhost.Runtimes() {
			It("lets "+name+" undo a create that was killed half-way", Label("root"), func() {
				testhost.Need(GinkgoT(), "root", path)
				r.Path = path
				at := state("left-behind")
				Expect(r.Delete(ctx, bundle, "box")).To(Succeed())
				Expect(at).NotTo(BeAnExistingFile())
			})
		}
	})
})

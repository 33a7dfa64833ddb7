package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"code.cloudfoundry.org/garden"
	"code.cloudfoundry.org/garden/client"
	"code.cloudfoundry.org/garden/client/connection"
	"github.com/onsi/gomega/gbytes"
	"github.com/onsi/gomega/gexec"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// garden is an API client of this ground's server.
func (g ground) garden() garden.Client {
	return client.New(connection.New("unix", g.socket))
}

// end stops the server with sig and waits until it is gone.
func end(server *gexec.Session, sig syscall.Signal) {
	GinkgoHelper()
	server.Signal(sig)
	Eventually(server, 30*time.Second).Should(gexec.Exit())
}

var _ = Describe("a server that is ended and started again", Label("root"), func() {
	for _, runtime := range runtimes {
		for name, sig := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL} {
			Describe(fmt.Sprintf("by %s, with %s", name, filepath.Base(runtime)), func() { survives(runtime, sig) })
		}
	}
})

func survives(runtime string, sig syscall.Signal) {
	var (
		g      ground
		server *gexec.Session
	)
	BeforeEach(func() {
		g = newGround(runtime)
		server = g.launch()
		DeferCleanup(func() { end(server, syscall.SIGTERM) })
	})
	again := func() {
		GinkgoHelper()
		end(server, sig)
		server = g.launch()
	}

	It("goes on with the output of a chatty process where it was", func() {
		box, err := g.garden().Create(garden.ContainerSpec{Handle: "chatty"})
		Expect(err).NotTo(HaveOccurred())
		first := gbytes.NewBuffer()
		_, err = box.Run(garden.ProcessSpec{ID: "count", Path: "/bin/sh", Args: []string{"-c", `i=0; while :; do for k in 1 2 3 4 5 6 7 8 9 10; do i=$((i+1)); echo $i; done; usleep 5000; done`}},
			garden.ProcessIO{Stdout: first})
		Expect(err).NotTo(HaveOccurred())
		Eventually(first, 20*time.Second).Should(gbytes.Say("\n1000\n"))
		again()

		second := &tail{}
		box, err = g.garden().Lookup("chatty")
		Expect(err).NotTo(HaveOccurred())
		process, err := box.Attach("count", garden.ProcessIO{Stdout: second})
		Expect(err).NotTo(HaveOccurred())
		Eventually(func() int { return len(second.String()) }, 20*time.Second).Should(BeNumerically(">", 2000))
		Expect(process.Signal(garden.SignalKill)).To(Succeed())
		Expect(process.Wait()).To(Equal(137))

		missing, err := continues(string(first.Contents()), second.String())
		Expect(err).NotTo(HaveOccurred())
		AddReportEntry("bytes missing", missing)
		if sig == syscall.SIGTERM {
			Expect(missing).To(BeZero())
		}
		Expect(missing).To(BeNumerically("<=", 64<<10)) // the chunk in the server's hands
		Expect(g.run("rm", "chatty")).To(gexec.Exit(0))
	})

	It("has containers with properties, addresses, grace time and exit codes", func() {
		api := g.garden()
		box, err := api.Create(garden.ContainerSpec{Handle: "box", GraceTime: time.Hour, Properties: garden.Properties{"colour": "red"}})
		Expect(err).NotTo(HaveOccurred())
		Expect(box.SetProperty("shape", "round")).To(Succeed())
		before, err := box.Info()
		Expect(err).NotTo(HaveOccurred())
		Expect(before.ContainerIP).NotTo(BeEmpty())
		for _, p := range []struct{ id, script string }{
			{"ended", "exit 21"},
			{"ends-meanwhile", "until [ -e /tmp/down ]; do usleep 10000; done; echo words; exit 22"},
			{"runs", "cat; exit 23"},
		} {
			_, err := box.Run(garden.ProcessSpec{ID: p.id, Path: "/bin/sh", Args: []string{"-c", p.script}}, garden.ProcessIO{})
			Expect(err).NotTo(HaveOccurred())
		}
		_, err = box.Run(garden.ProcessSpec{Path: "/bin/sh", Args: []string{"-c", "usleep 300000; touch /tmp/down"}}, garden.ProcessIO{})
		Expect(err).NotTo(HaveOccurred())
		end(server, sig)
		Eventually(func() bool { return g.box("/tmp/down") }, 10*time.Second).Should(BeFalse())
		server = g.launch()

		api = g.garden()
		box, err = api.Lookup("box")
		Expect(err).NotTo(HaveOccurred())
		after, err := box.Info()
		Expect(err).NotTo(HaveOccurred())
		after.ProcessIDs, before.ProcessIDs = nil, nil
		Expect(after).To(Equal(before))
		Expect(box.Property("shape")).To(Equal("round"))
		Expect(box.Property("garden.grace-time")).To(Equal(strconv.Itoa(int(time.Hour))))

		wait := func(id string, pio garden.ProcessIO) int {
			GinkgoHelper()
			p, err := box.Attach(id, pio)
			Expect(err).NotTo(HaveOccurred())
			code, err := p.Wait()
			Expect(err).NotTo(HaveOccurred())
			return code
		}
		var words tail
		Expect(wait("ended", garden.ProcessIO{})).To(Equal(21))
		Expect(wait("ends-meanwhile", garden.ProcessIO{Stdout: &words})).To(Equal(22))
		Expect(words.String()).To(Equal("words\n"))
		var echo tail
		Expect(wait("runs", garden.ProcessIO{Stdin: strings.NewReader("hello"), Stdout: &echo})).To(Equal(23))
		Expect(echo.String()).To(Equal("hello"))

		p, err := box.Run(garden.ProcessSpec{Path: "/bin/sleep", Args: []string{"1000"}}, garden.ProcessIO{})
		Expect(err).NotTo(HaveOccurred())
		Expect(box.Stop(false)).To(Succeed())
		Expect(p.Wait()).To(Equal(143))
		Expect(api.Destroy("box")).To(Succeed())
		Expect(api.Destroy("box")).To(Equal(garden.ContainerNotFoundError{Handle: "box"}))
	})

	It("reports a container whose init died meanwhile as stopped, and destroys it", func() {
		api := g.garden()
		_, err := api.Create(garden.ContainerSpec{Handle: "box"})
		Expect(err).NotTo(HaveOccurred())
		raw, err := os.ReadFile(filepath.Join(g.dir, "state", "depot", "box", "pidfile"))
		Expect(err).NotTo(HaveOccurred())
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		Expect(err).NotTo(HaveOccurred())
		end(server, sig)
		Expect(syscall.Kill(pid, syscall.SIGKILL)).To(Succeed())
		server = g.launch()
		box, err := g.garden().Lookup("box")
		Expect(err).NotTo(HaveOccurred())
		info, err := box.Info()
		Expect(err).NotTo(HaveOccurred())
		Expect(info.State).To(Equal("stopped"))
		Expect(g.run("rm", "box")).To(gexec.Exit(0))
	})
}

// box tells whether a process of container box has word in its command line.
// It needs no server.
func (g ground) box(word string) bool {
	members, _ := filepath.Glob("/sys/fs/cgroup/*/garden-" + g.tag() + "/box/cgroup.procs") // the pattern is well formed
	Expect(members).NotTo(BeEmpty())
	for _, path := range members {
		raw, _ := os.ReadFile(path) // gone: nothing runs
		for pid := range strings.FieldsSeq(string(raw)) {
			line, _ := os.ReadFile("/proc/" + pid + "/cmdline") // ended meanwhile
			if strings.Contains(string(line), word) {
				return true
			}
		}
	}
	return false
}

func (g ground) tag() string {
	raw, err := os.ReadFile(g.config)
	Expect(err).NotTo(HaveOccurred())
	_, rest, _ := strings.Cut(string(raw), "tag = ")
	tag, _, _ := strings.Cut(rest, "\n")
	return tag
}

// continues checks that second goes on in the count 1, 2, 3 ... that first
// began, and returns how many bytes between them are missing.
func continues(first, second string) (missing int, err error) {
	var all strings.Builder
	at := map[int]int{} // number -> offset
	for n := 1; all.Len() < len(first)+len(second)+(1<<20); n++ {
		at[n] = all.Len()
		fmt.Fprintf(&all, "%d\n", n)
	}
	count := all.String()
	if !strings.HasPrefix(count, first) {
		return 0, fmt.Errorf("the first part is no count: ...%q", first[max(0, len(first)-80):])
	}
	head, rest, ok := strings.Cut(second, "\n")
	line, _, ok2 := strings.Cut(rest, "\n")
	number, err := strconv.Atoi(line)
	if !ok || !ok2 || err != nil {
		return 0, fmt.Errorf("no number in %.80q", second)
	}
	begin := at[number] - len(head) - 1
	switch {
	case begin < len(first):
		return 0, fmt.Errorf("%d bytes are doubled", len(first)-begin)
	case begin+len(second) > len(count) || count[begin:begin+len(second)] != second:
		return 0, errors.New("the second part is no count")
	}
	return begin - len(first), nil
}

// A tail is a writer that can be read meanwhile.
type tail struct {
	mu  sync.Mutex
	all strings.Builder
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.Write(p)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.String()
}

var _ = Describe("a server that is killed while it works", Label("root"), func() {
	It("loses nothing that it acknowledged and leaves nothing else", func() {
		g := newGround("crun")
		server := g.launch()
		DeferCleanup(func() { end(server, syscall.SIGTERM) })
		random := rand.New(rand.NewPCG(1, uint64(GinkgoRandomSeed())))

		var mu sync.Mutex
		alive := map[string]bool{}    // acknowledged; true: nobody asked to destroy it
		doubtful := map[string]bool{} // being created at the kill
		for round := range 8 {
			var wg sync.WaitGroup
			for worker := range 4 {
				wg.Go(func() {
					api := g.garden()
					for i := 0; ; i++ {
						handle := fmt.Sprintf("h-%d-%d-%d", round, worker, i)
						mu.Lock()
						doubtful[handle] = true
						mu.Unlock()
						if _, err := api.Create(garden.ContainerSpec{Handle: handle, Properties: garden.Properties{"is": handle}}); err != nil {
							return // the server is gone
						}
						mu.Lock()
						delete(doubtful, handle)
						alive[handle] = i%2 == 0
						mu.Unlock()
						if i%2 == 0 {
							continue
						}
						if err := api.Destroy(handle); err != nil {
							return // it may be there or not
						}
						mu.Lock()
						delete(alive, handle)
						mu.Unlock()
					}
				})
			}
			time.Sleep(time.Duration(100+random.IntN(700)) * time.Millisecond) // any moment will do
			end(server, syscall.SIGKILL)
			wg.Wait()
			server = g.launch()

			api := g.garden()
			listed, err := api.Containers(nil)
			Expect(err).NotTo(HaveOccurred())
			found := map[string]bool{}
			for _, c := range listed {
				found[c.Handle()] = true
			}
			for handle := range found {
				_, mayBe := alive[handle]
				Expect(mayBe || doubtful[handle]).To(BeTrue(), "%s was destroyed and is back", handle)
			}
			for handle, must := range alive {
				if !must {
					continue // its destroy was under way
				}
				Expect(found).To(HaveKey(handle))
				box, err := api.Lookup(handle)
				Expect(err).NotTo(HaveOccurred())
				Expect(box.Property("is")).To(Equal(handle))
				p, err := box.Run(garden.ProcessSpec{Path: "/bin/true"}, garden.ProcessIO{Stdout: io.Discard})
				Expect(err).NotTo(HaveOccurred())
				Expect(p.Wait()).To(BeZero())
			}
			for handle := range found {
				Expect(api.Destroy(handle)).To(Succeed())
			}
			clear(alive)
			clear(doubtful)
		}
	})
})

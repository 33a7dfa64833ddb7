package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("scripts", Label("root"), func() {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		panic("no scripts")
	}
	for _, script := range scripts {
		for _, runtime := range runtimes {
			name := strings.TrimSuffix(filepath.Base(script), ".txtar")
			It(name+" with "+filepath.Base(runtime), func() { runScript(script, runtime) })
		}
	}
})

// runScript runs one script on a ground of its own. A script finds the
// server's options in the file $CONFIG. It knows four commands of ours:
//
//	serving          wait until the server answers
//	exits N CMD...   run CMD, which must exit with code N
//	empty            remove all containers
//	signal NAME      send TERM, INT or KILL to the server
func runScript(script, runtime string) {
	GinkgoHelper()
	g := newGround(runtime)
	testscript.RunT(scriptT{GinkgoT()}, testscript.Params{
		Files: []string{script},
		Setup: func(env *testscript.Env) error {
			env.Setenv("CONFIG", g.config)
			env.Setenv("GDN_SOCKET", g.socket)
			env.Setenv("STATE", filepath.Join(g.dir, "state"))
			env.Setenv("STORE", filepath.Join(g.dir, "store"))
			env.Setenv("RUNTIME", runtime)
			return nil
		},
		RequireExplicitExec: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"serving": func(ts *testscript.TestScript, _ bool, _ []string) {
				Eventually(func() error { return g.gdn("ps").Run() }, "20s", "20ms").Should(Succeed())
			},
			"empty": func(ts *testscript.TestScript, _ bool, _ []string) {
				handles, err := g.gdn("ps", "-q").Output()
				ts.Check(err)
				ts.Check(g.gdn(append([]string{"rm"}, strings.Fields(string(handles))...)...).Run())
			},
			"signal": func(ts *testscript.TestScript, _ bool, args []string) {
				text, err := os.ReadFile(filepath.Join(g.dir, "state", "lock"))
				ts.Check(err)
				pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
				ts.Check(err)
				ts.Check(syscall.Kill(pid, unix.SignalNum("SIG"+args[0])))
			},
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				expected, err := strconv.Atoi(args[0])
				ts.Check(err)
				err = ts.Exec(args[1], args[2:]...)
				code := 0
				if exited, ok := errors.AsType[*exec.ExitError](err); ok {
					code = exited.ExitCode()
				} else {
					ts.Check(err)
				}
				if code != expected {
					ts.Fatalf("exit code %d, not %d", code, expected)
				}
			},
		},
	})
}

// scriptT lets a script be a spec.
type scriptT struct{ GinkgoTInterface }

func (t scriptT) Run(_ string, f func(testscript.T)) { f(t) }
func (t scriptT) Verbose() bool                      { return false }
func (t scriptT) Parallel()                          {}
